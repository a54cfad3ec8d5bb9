"""MetaImage files (.mha, itk.org/Wiki/MetaIO/Documentation) with their data attached, raw or compressed by zlib."""

from __future__ import annotations

import numpy as np

from indexer.errors import PixelError
from indexer.pixels.volumes.voxels import Voxels, affine_of

_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_MOST_HEADER = 1 << 20
_DATA = "ElementDataFile"  # the last field


def header(data: bytes) -> Voxels:
    """Raises PixelError where the data are in another file, or of a form that is not read."""
    fields, start = _fields(data)
    if fields[_DATA].upper() != "LOCAL":
        raise PixelError("unsupported image", "MetaImage whose data are in another file: write it as one .mha")
    if fields.get("ObjectType", "Image") != "Image" or _yes(fields, "BinaryData", "True") is False:
        raise PixelError("unsupported image", "MetaImage that is no image of binary data")
    if int(fields.get("ElementNumberOfChannels", "1") or 1) != 1:
        raise PixelError("unsupported image", f"MetaImage of {fields['ElementNumberOfChannels']} values a voxel")
    if fields.get("HeaderSize", "0") != "0":
        raise PixelError("unsupported image", "MetaImage with bytes to skip before its data")
    try:
        code = _TYPES.get(fields["ElementType"])
        if code is None:
            raise PixelError("unsupported image", f"MetaImage of type {fields['ElementType']}")
        return _voxels(fields, start, code)
    except (KeyError, ValueError) as error:
        raise PixelError("corrupt image", f"MetaImage: {type(error).__name__} {error}"[:300]) from error


def _voxels(fields: dict[str, str], start: int, code: str) -> Voxels:
    count = int(fields["NDims"])
    sizes = tuple(int(size) for size in fields["DimSize"].split())
    if len(sizes) != count:
        raise ValueError(f"NDims {count} and {len(sizes)} sizes")
    big = _yes(fields, "BinaryDataByteOrderMSB", "False") or _yes(fields, "ElementByteOrderMSB", "False")
    spacing = _numbers(fields, ("ElementSpacing", "ElementSize"), [1.0] * count)
    origin = _numbers(fields, ("Offset", "Position", "Origin"), [0.0] * count)
    turned = _numbers(fields, ("TransformMatrix", "Orientation", "Rotation"), list(np.eye(count).ravel()))
    space = min(3, count)
    axes = np.array(turned).reshape(count, count)[:space, :space] * np.array(spacing)[:space, None]
    affine = affine_of(axes, np.array(origin)[:space])
    packed = bool(_yes(fields, "CompressedData", "False"))
    return Voxels("MetaImage", sizes, np.dtype((">" if big else "<") + code), affine, start, packed)


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    fields: dict[str, str] = {}
    at = 0
    while _DATA not in fields:
        end = data.find(b"\n", at, _MOST_HEADER)
        name, equals, value = data[at : end if end >= 0 else _MOST_HEADER].decode("latin-1").partition("=")
        if not equals or (end < 0 and name.strip() != _DATA):
            raise PixelError("corrupt image", f"MetaImage: no {_DATA} in its header")
        fields[name.strip()] = value.strip()
        at = end + 1 if end >= 0 else len(data)
    return fields, at


def _numbers(fields: dict[str, str], names: tuple[str, ...], default: list[float]) -> list[float]:
    text = next((fields[name] for name in names if name in fields), None)
    found = default if text is None else [float(number) for number in text.split()]
    if len(found) != len(default):
        raise ValueError(f"{len(found)} numbers of {names[0]}, not {len(default)}")
    return found


def _yes(fields: dict[str, str], name: str, default: str) -> bool:
    return fields.get(name, default).lower() in ("true", "1")
