"""Detects the kind of an image, from the magic bytes first, since file names may be wrong, then from the suffix."""

from __future__ import annotations

import struct

from indexer.types import SERIES

DICOM_SUFFIXES = ("dcm", "dicom", "")
PREAMBLE = 128  # bytes before DICM, PS3.10 section 7.1
_IMPLICIT_OR_KNOWN_VR = frozenset({b"UI", b"UL", b"CS", b"DA", b"TM", b"SH", b"LO", b"OB", b"US", b"DT", b"IS", b"UN"})


def sniff(data: bytes, suffix: str) -> str:
    """The kind: jpeg, png, tiff, webp, bmp, gif, pnm, dicom, series, nifti, nrrd, metaimage; "" for other bytes.

    Only the first 352 bytes are needed.
    """
    found = by_magic(data)
    if found:
        return found
    if suffix in DICOM_SUFFIXES and looks_like_bare_dicom(data):
        return "dicom"
    if suffix == SERIES and data[:4] == b"PK\x03\x04":
        return "series"
    if suffix in ("mha", "mhd") and data[:5] == b"NDims":
        return "metaimage"
    if suffix == "nii.gz" and data[:2] == b"\x1f\x8b":
        return "nifti"
    return ""


def by_magic(data: bytes) -> str:
    """As `sniff`, from the bytes alone."""
    if data[PREAMBLE : PREAMBLE + 4] == b"DICM":  # first, since the preamble may hold anything, e.g. a TIFF header
        return "dicom"
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    if data[:2] in (b"P5", b"P6", b"P4", b"P2", b"P3", b"P1") and data[2:3].isspace():
        return "pnm"
    return "nifti" if data[344:348] in (b"n+1\0", b"n+2\0") or data[4:8] == b"n+2\0" else ""


_MAGIC = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"II+\0", "tiff"),  # BigTIFF
    (b"MM\0+", "tiff"),
    (b"BM", "bmp"),
    (b"NRRD000", "nrrd"),
    (b"ObjectType = Image", "metaimage"),
    (b"ObjectType=Image", "metaimage"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
)


_OTHERS = (  # image formats that are not read: (offset, magic bytes, name)
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
    (4, b"ftypavi", "AVIF"),
    (4, b"ftyphe", "HEIC"),
    (4, b"ftypmi", "HEIC"),
    (4, b"ftypms", "HEIC"),
    (4, b"ftyp", "MP4 or another film"),
    (0, b"8BPS", "Photoshop"),
    (0, b"v/1\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (344, b"ni1\0", "NIfTI in two files (.hdr and .img)"),
    (0, b"Pf\n", "PFM"),
    (0, b"PF\n", "PFM"),
    (0, b"P7\n", "PAM"),
    (0, b"DDS ", "DDS"),
    (0, b"qoif", "QOI"),
    (0, b"\0\0\1\0", "ICO"),
    (0, b"<svg", "SVG"),
    (0, b"%!PS", "PostScript"),
    (0, b"%PDF", "PDF"),
)


def other_format(data: bytes) -> str:
    """The name of an image format that is known here but not read; "" for other bytes."""
    return next((name for at, magic, name in _OTHERS if data[at : at + len(magic)] == magic), "")


def looks_like_bare_dicom(data: bytes) -> bool:
    """Whether these bytes are a data set without preamble and DICM, which begins with group 0002 or 0008."""
    if len(data) < 12:
        return False
    for order in ("<", ">"):
        group, element = struct.unpack(order + "HH", data[:4])
        if group in (0x0002, 0x0008) and element <= 0x0070:
            explicit = data[4:6] in _IMPLICIT_OR_KNOWN_VR
            length = struct.unpack(order + "I", data[4:8])[0]
            return explicit or length <= 1 << 16  # implicit VR: the length is in place of the VR
    return False
