"""NRRD files (teem.sourceforge.net/nrrd/format.html) with their data attached, raw or gzipped."""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.volumes.voxels import Voxels, affine_of

_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "uchar,unsigned char,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "ushort,unsigned short,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "uint,unsigned int,uint32,uint32_t",
        "i8": "longlong,long long,long long int,signed long long,signed long long int,int64,int64_t",
        "u8": "ulonglong,unsigned long long,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
_SIGNS = {  # space → what turns its first three axes to left, posterior, superior
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1), "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip
_MOST_HEADER = 1 << 20
_VECTOR = re.compile(r"\(([^)]*)\)|none", re.IGNORECASE)
_SERIES_KINDS = ("list", "time", "domain", "space", "???", "none")
_UNPACKED, _PACKED = ("raw",), ("gzip", "gz")


def header(data: bytes) -> Voxels:
    """Raises PixelError where the data are in another file, or of a form that is not read."""
    fields, start = _fields(data)
    try:
        return _voxels(fields, start)
    except (KeyError, ValueError) as error:
        raise PixelError("corrupt image", f"NRRD: {type(error).__name__} {error}"[:300]) from error


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """The fields of the header, lower case, and where the data begin: behind the first empty line."""
    ends = [at for at in (data.find(b"\n\n", 0, _MOST_HEADER), data.find(b"\n\r\n", 0, _MOST_HEADER)) if at >= 0]
    if not ends:
        if re.search(rb"(?im)^data ?file:", data[:_MOST_HEADER]):
            raise PixelError("unsupported image", "NRRD whose data are in another file: attach them to the header")
        raise PixelError("truncated", "NRRD: no empty line ends the header")
    end = min(ends)
    fields = {}
    for line in data[:end].decode("latin-1").splitlines()[1:]:
        name, colon, value = line.partition(": ")
        if colon and not line.startswith("#"):
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    return fields, end + (2 if data[end : end + 2] == b"\n\n" else 3)


def _voxels(fields: dict[str, str], start: int) -> Voxels:
    if "datafile" in fields:
        raise PixelError("unsupported image", "NRRD whose data are in another file: attach them to the header")
    encoding = fields["encoding"].lower()
    if encoding not in _UNPACKED + _PACKED:
        raise PixelError("unsupported image", f"NRRD with the encoding {encoding}: write it as raw or gzip")
    if any(int(fields.get(skip, "0")) for skip in ("lineskip", "byteskip")):
        raise PixelError("unsupported image", "NRRD with bytes to skip before its data")
    code = _TYPES.get(fields["type"].lower())
    if code is None:
        raise PixelError("unsupported image", f"NRRD of type {fields['type']}")
    order = {"big": ">", "little": "<"}[fields.get("endian", "little").lower()]
    sizes = tuple(int(size) for size in fields["sizes"].split())
    if len(sizes) != int(fields["dimension"]):
        raise ValueError(f"dimension {fields['dimension']} and {len(sizes)} sizes")
    axes, first = _axes(fields, len(sizes))
    signs = np.array(_SIGNS.get(fields.get("space", "").lower(), (1, 1, 1)), float)
    wide = axes.shape[1]
    origin = np.array(_numbers(fields["spaceorigin"])[:wide] if "spaceorigin" in fields else [0.0] * wide)
    affine = affine_of(axes * signs[:wide], origin * signs[: len(origin)])
    return Voxels("NRRD", sizes, np.dtype(order + code), affine, start, encoding in _PACKED, first)


def _axes(fields: dict[str, str], count: int) -> tuple[npt.NDArray[np.float64], bool]:
    """Steps (n, n or 3) along the axes in space, and whether the axis before them counts volumes."""
    kinds = fields.get("kinds", "").lower().split() or ["domain"] * count
    if "spacedirections" in fields:
        found = [match[1] for match in _VECTOR.finditer(fields["spacedirections"])]
        vectors = [None if text is None else _numbers(text) for text in found]
    else:
        spacings = [float(text) for text in fields.get("spacings", " ".join(["1"] * count)).split()]
        unit = np.eye(min(3, count))
        spatial = [n for n, kind in enumerate(kinds) if kind in ("domain", "space", "???", "none")][:3]
        vectors = [
            list(unit[spatial.index(n)] * (spacings[n] if np.isfinite(spacings[n]) else 1.0)) if n in spatial else None
            for n in range(count)
        ]
    if count == 4 and all(vector is not None and len(vector) == 4 for vector in vectors):  # ITK's time is an axis too
        vectors = [*(vector[:3] for vector in vectors[:3] if vector is not None), None]
    placed = [n for n, vector in enumerate(vectors) if vector is not None]
    others = [kind for n, kind in enumerate(kinds) if n not in placed]
    if len(vectors) != count or len(kinds) != count or len(placed) != min(3, count):
        raise PixelError("unsupported image", f"NRRD with {len(placed)} axes in space of {count}")
    if any(kind not in _SERIES_KINDS for kind in others):
        raise PixelError("unsupported image", f"NRRD whose voxels are of kind {' and '.join(others)}, not grey values")
    if placed != list(range(placed[0], placed[0] + len(placed))) or placed[0] > 1 or (placed[0] and count > 4):
        raise PixelError("unsupported image", "NRRD whose axes in space do not follow each other")
    return np.array([vectors[n] for n in placed], np.float64), placed[0] == 1


def _numbers(text: str) -> list[float]:
    return [float(number) for number in text.strip("() ").split(",")]
