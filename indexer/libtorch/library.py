"""Some of torch's operators through the C interface of its library, without the second that `import torch` takes.

`torch/csrc/stable/c/shim.h` and `torch/csrc/inductor/aoti_torch/c/shim.h` are that interface, which torch keeps stable
(from 2.10 on) for extensions. The operators are the same code of the same file that Python's torch calls, on the same
number of threads, so that results are the same bits. Memory of arrays that are passed in is borrowed, not copied.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from indexer.types import Float32

VERSION = 2 << 56 | 10 << 48  # of the interface that this module was written for: 2.10
_NAMES = (
    "aoti_torch_create_tensor_from_blob", "aoti_torch_new_tensor_handle", "aoti_torch_delete_tensor_object",
    "aoti_torch_get_dim", "aoti_torch_get_sizes", "aoti_torch_get_data_ptr", "aoti_torch_get_strides",
    "aoti_torch_cpu_convolution", "aoti_torch_cpu_add_Tensor", "aoti_torch_cpu_pad",
    "torch_call_dispatcher", "torch_new_list_reserve_size", "torch_list_push_back",
)  # fmt: skip
Handle, Int = ctypes.c_void_p, ctypes.c_int64


@cache
def library() -> Any | None:
    """libtorch_cpu with what this module calls; None where torch has another form or version here.

    Where torch itself is imported, or will be, it is the same library, loaded once.
    """
    package = find_spec("torch")
    if package is None or package.origin is None or sys.platform != "linux":
        return None
    try:
        found = ctypes.CDLL(str(Path(package.origin).with_name("lib") / "libtorch_cpu.so"))
    except OSError:
        return None
    return found if all(hasattr(found, name) for name in _NAMES) else None


class Tensor:
    """A tensor of the library, released with this object. `keep` is the memory that it borrows."""

    def __init__(self, handle: Any, keep: object = None) -> None:
        self.handle, self._keep = handle, keep
        self._release: Callable[[Any], object] = _library().aoti_torch_delete_tensor_object

    def __del__(self) -> None:
        self._release(self.handle)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._numbers("aoti_torch_get_sizes")

    def array(self, kind: type[np.generic]) -> np.ndarray:
        """A copy of its elements, whose type `kind` has the size of."""
        itemsize = np.dtype(kind).itemsize
        strides = tuple(itemsize * step for step in self._numbers("aoti_torch_get_strides"))
        start = Handle()
        checked("aoti_torch_get_data_ptr", self.handle, ctypes.byref(start))
        nbytes = itemsize + sum((n - 1) * step for n, step in zip(self.shape, strides, strict=True))
        memory = (ctypes.c_char * nbytes).from_address(start.value or 0)
        return np.ndarray(self.shape, kind, memoryview(memory), strides=strides).copy("K")

    def _numbers(self, name: str) -> tuple[int, ...]:
        count, first = Int(), ctypes.POINTER(Int)()
        checked("aoti_torch_get_dim", self.handle, ctypes.byref(count))
        checked(name, self.handle, ctypes.byref(first))
        return tuple(first[: count.value])


def tensor(values: np.ndarray, kind: str) -> Tensor:
    """The array's memory as a tensor of `kind` (uint8, float32, bfloat16, which numpy holds as uint16)."""
    own, handle = _library(), Handle()
    strides = [step // values.itemsize for step in values.strides]
    checked(
        "aoti_torch_create_tensor_from_blob", Handle(values.ctypes.data), Int(values.ndim), ints(values.shape),
        ints(strides), Int(0), getattr(own, f"aoti_torch_dtype_{kind}")(), own.aoti_torch_device_type_cpu(), 0,
        ctypes.byref(handle),
    )  # fmt: skip
    return Tensor(handle, values)


def bfloat16(values: Float32) -> np.ndarray:
    """Finite values rounded to the nearest bfloat16, ties to even, as uint16, in the same order of memory."""
    bits = values.view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + (bits >> 16 & 1))) >> 16).astype(np.uint16)


def from_bfloat16(bits: np.ndarray) -> Float32:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _library() -> Any:
    found = library()
    if found is None:
        raise RuntimeError("libtorch_cpu is not usable here: ask library() first")
    return found


def checked(name: str, *arguments: Any) -> None:
    """Call a function of the library. It reports errors on stderr and by its result."""
    if getattr(_library(), name)(*arguments):
        raise RuntimeError(f"{name} failed")


def called(operator: str, *arguments: int) -> Tensor:
    """The result of any operator. Its arguments are given away, as numbers of 64 bits: see `owned` and `listed`."""
    stack = (ctypes.c_uint64 * max(len(arguments), 1))(*arguments)
    checked("torch_call_dispatcher", operator.encode(), b"", stack, ctypes.c_uint64(VERSION))
    return Tensor(Handle(stack[0]))


def owned(x: Tensor) -> int:
    again = Handle()
    checked("aoti_torch_new_tensor_handle", x.handle, ctypes.byref(again))
    return again.value or 0


def listed(numbers: Sequence[int]) -> int:
    made = Handle()
    checked("torch_new_list_reserve_size", ctypes.c_size_t(len(numbers)), ctypes.byref(made))
    for number in numbers:
        checked("torch_list_push_back", made, ctypes.c_uint64(number))
    return made.value or 0


def ints(numbers: Sequence[int]) -> Any:
    return (Int * len(numbers))(*numbers)
