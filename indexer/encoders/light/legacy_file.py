"""Reads a dictionary of tensors in torch's file format of before version 1.6, as arrays, without torch.

The format is five pickles (a magic number, the protocol, facts of the machine, the dictionary, the order of the
storages) and then each storage as a count and its elements. The pickles are not loaded: their operations are listed,
and those that such a file needs are done here, so that nothing of the file is run.
"""

from __future__ import annotations

import mmap
import pickletools  # lists operations, and runs none  # nosec B403
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from indexer.errors import WeightsMismatch

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_Array = np.ndarray


class _Storage:
    """A storage: its type, and its elements once they are read."""

    def __init__(self, kind: str, count: int) -> None:
        self.kind, self.count = np.dtype(kind), count
        self.elements = np.empty(0, self.kind)


class _Waiting:
    """A tensor whose storage is not read yet."""

    def __init__(
        self, storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any
    ) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> _Array:
        elements, size = self.storage.elements, self.storage.kind.itemsize
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        if self.offset < 0 or min((*self.strides, 0)) < 0 or last >= len(elements):
            raise ValueError("a tensor lies outside of its storage")
        steps = tuple(size * step for step in self.strides)
        return np.lib.stride_tricks.as_strided(elements[self.offset :], self.shape, steps, writeable=False)


_GLOBALS: Mapping[str, Any] = {
    "collections OrderedDict": dict,
    "torch._utils _rebuild_tensor_v2": _Waiting,
    "torch FloatStorage": "<f4",
    "torch LongStorage": "<i8",
}


class _Machine:
    """The stack and memory on which a pickle's operations build its value."""

    def __init__(self, storages: dict[str, _Storage]) -> None:
        self.stack: list[Any] = []
        self.memory: dict[int, Any] = {}
        self.storages = storages
        self._marks: list[int] = []

    def mark(self) -> None:
        self._marks.append(len(self.stack))

    def last(self, count: int | None = None) -> list[Any]:
        """The last `count` values, or all since the last mark, which are then no longer there."""
        start = self._marks.pop() if count is None else len(self.stack) - count
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def items(self, values: list[Any]) -> None:
        self.stack[-1].update(zip(values[::2], values[1::2], strict=True))

    def extend(self, values: list[Any]) -> None:
        self.stack[-1].extend(values)

    def storage(self) -> _Storage:
        _, kind, key, _, length, _ = self.stack.pop()
        return self.storages.setdefault(str(key), _Storage(str(kind), int(length)))

    def made(self) -> Any:
        kind, arguments = self.last(2)
        return kind(*arguments)


_PUSHED: Mapping[str, Callable[[_Machine, Any], Any]] = {  # operation → the value that it puts on the stack
    **dict.fromkeys(("BINUNICODE", "BININT", "BININT1", "BININT2", "LONG1"), lambda _, value: value),
    "NONE": lambda *_: None,
    "NEWTRUE": lambda *_: True,
    "NEWFALSE": lambda *_: False,
    "EMPTY_TUPLE": lambda *_: (),
    "EMPTY_DICT": lambda *_: {},
    "EMPTY_LIST": lambda *_: [],
    "TUPLE": lambda machine, _: tuple(machine.last()),
    "TUPLE1": lambda machine, _: tuple(machine.last(1)),
    "TUPLE2": lambda machine, _: tuple(machine.last(2)),
    "TUPLE3": lambda machine, _: tuple(machine.last(3)),
    "BINGET": lambda machine, place: machine.memory[place],
    "LONG_BINGET": lambda machine, place: machine.memory[place],
    "GLOBAL": lambda _, name: _GLOBALS[name],
    "BINPERSID": lambda machine, _: machine.storage(),
    "REDUCE": lambda machine, _: machine.made(),
}
_DONE: Mapping[str, Callable[[_Machine, Any], object]] = {  # operation → what it does else
    "PROTO": lambda *_: None,
    "STOP": lambda *_: None,
    "MARK": lambda machine, _: machine.mark(),
    "BINPUT": lambda machine, place: machine.memory.update({place: machine.stack[-1]}),
    "LONG_BINPUT": lambda machine, place: machine.memory.update({place: machine.stack[-1]}),
    "SETITEM": lambda machine, _: machine.items(machine.last(2)),
    "SETITEMS": lambda machine, _: machine.items(machine.last()),
    "APPENDS": lambda machine, _: machine.extend(machine.last()),
    "BUILD": lambda machine, _: machine.stack.pop(),  # the versions of a state_dict's modules
}


def _next_value(file: IO[bytes], storages: dict[str, _Storage]) -> Any:
    """The value of the pickle at the file's position. Raises KeyError for an operation or class not named above."""
    machine = _Machine(storages)
    for operation, argument, _ in pickletools.genops(file):
        if operation.name in _PUSHED:
            machine.stack.append(_PUSHED[operation.name](machine, argument))
        else:
            _DONE[operation.name](machine, argument)
    return machine.stack.pop()


def read_legacy(path: Path) -> dict[str, _Array]:
    """The tensors by name, in the file's order, as read-only arrays in the mapped file. Raises WeightsMismatch."""
    storages: dict[str, _Storage] = {}
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            magic, protocol, machine, waiting, order = (_next_value(file, storages) for _ in range(5))
            if magic != MAGIC or protocol != PROTOCOL or not machine["little_endian"]:
                raise ValueError("it is another format")
            _fill([storages[str(key)] for key in order], pages, file.tell())
            return {str(name): tensor.array() for name, tensor in waiting.items()}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise WeightsMismatch(
                f"{path} is not a plain file of tensors: {error}. Install its package again."
            ) from error


def _fill(storages: list[_Storage], pages: mmap.mmap, at: int) -> None:
    """Take the elements, which lie from `at` on in this order. Raises ValueError where they are not all there."""
    for storage in storages:
        if int.from_bytes(pages[at : at + 8], "little") != storage.count:
            raise ValueError("a storage is not as long as it should be")
        storage.elements = np.frombuffer(pages, storage.kind, storage.count, at + 8)
        at += 8 + storage.elements.nbytes
