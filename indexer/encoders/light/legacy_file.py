"""Reads a dictionary of tensors in torch's file format of before version 1.6, as arrays, without torch.

The format is five pickles (a magic number, the protocol, facts of the machine, the dictionary, the order of the
storages) and then each storage as a count and its elements. Of the pickles' classes only those of `_CLASSES` exist
here, and these run no code.
"""

from __future__ import annotations

import mmap
import pickle  # a class that is not in _CLASSES is refused  # nosec B403
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


_CLASSES: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Waiting,
    ("torch", "FloatStorage"): "<f4",
    ("torch", "LongStorage"): "<i8",
}


class _Reader(pickle.Unpickler):
    def __init__(self, file: mmap.mmap, storages: dict[str, _Storage]) -> None:
        super().__init__(file)
        self._storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _CLASSES:
            raise ValueError(f"{module}.{name} is no part of a file of tensors")
        return _CLASSES[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, count, _ = pid
        return self._storages.setdefault(str(key), _Storage(str(kind), int(count)))


def read_legacy(path: Path) -> dict[str, _Array]:
    """The tensors by name, in the file's order, as read-only arrays in the mapped file. Raises WeightsMismatch."""
    with path.open("rb") as file:
        pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    storages: dict[str, _Storage] = {}

    def load() -> Any:
        return _Reader(pages, storages).load()

    try:
        if load() != MAGIC or load() != PROTOCOL or not load()["little_endian"]:
            raise ValueError("it is another format")
        waiting, order = load(), load()
        at = pages.tell()
        for key in order:
            storage = storages[str(key)]
            if int.from_bytes(pages[at : at + 8], "little") != storage.count:
                raise ValueError("a storage is not as long as it should be")
            storage.elements = np.frombuffer(pages, storage.kind, storage.count, at + 8)
            at += 8 + storage.elements.nbytes
        return {str(name): tensor.array() for name, tensor in waiting.items()}
    except (pickle.UnpicklingError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise WeightsMismatch(f"{path} is not a plain file of tensors: {error}. Install its package again.") from error
