"""One tiny image in every format and transfer syntax: pixel (y, x) has grey level 16 · y + x.

The compressed streams are constants, so that a decoder can be tried on a machine that has no encoder for its format.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt

from indexer.types import UInt8

SIDE = 16
LEVELS: UInt8 = np.arange(SIDE * SIDE, dtype=np.uint8).reshape(SIDE, SIDE)
DEEP: npt.NDArray[np.uint16] = LEVELS.astype(np.uint16) * 16  # 12 bits; the minimum is black, the maximum white
EXACT, LOSSY = 0, 4  # grey levels by which a decoded specimen may differ


@dataclass(frozen=True)
class Specimen:
    """A file to test a decoder with. `make` raises ImportError where a library that writes it is missing."""

    name: str
    suffix: str
    make: Callable[[], bytes]
    tolerance: int = EXACT


@dataclass(frozen=True)
class Syntax:
    """A DICOM transfer syntax and its test stream, "" for uncompressed; `bits` are BitsStored."""

    uid: str
    stream: str
    bits: int = 12
    tolerance: int = EXACT


SYNTAXES = (
    Syntax("1.2.840.10008.1.2", ""),
    Syntax("1.2.840.10008.1.2.1", ""),
    Syntax("1.2.840.10008.1.2.2", ""),
    Syntax("1.2.840.10008.1.2.1.99", ""),
    Syntax("1.2.840.10008.1.2.5", "rle"),
    Syntax("1.2.840.10008.1.2.4.50", "jpeg", 8, LOSSY),
    Syntax("1.2.840.10008.1.2.4.51", "jpeg 12 bit", 12, LOSSY),
    Syntax("1.2.840.10008.1.2.4.57", "jpeg lossless"),
    Syntax("1.2.840.10008.1.2.4.70", "jpeg lossless first order"),
    Syntax("1.2.840.10008.1.2.4.80", "jpeg-ls"),
    Syntax("1.2.840.10008.1.2.4.81", "jpeg-ls near", 12, LOSSY),
    Syntax("1.2.840.10008.1.2.4.90", "jpeg 2000"),
    Syntax("1.2.840.10008.1.2.4.91", "jpeg 2000"),
    Syntax("1.2.840.10008.1.2.4.201", "htj2k", 16),
    Syntax("1.2.840.10008.1.2.4.202", "htj2k", 16),
    Syntax("1.2.840.10008.1.2.4.203", "htj2k", 16),
)


def files() -> tuple[Specimen, ...]:
    """One specimen of every kind except DICOM."""
    return (
        Specimen("JPEG", "jpg", lambda: stream("jpeg"), LOSSY),
        Specimen("PNG 8 bit", "png", lambda: _pillow(LEVELS, "PNG")),
        Specimen("PNG 16 bit", "png", lambda: _pillow(DEEP, "PNG")),
        Specimen("TIFF 8 bit", "tif", lambda: _tiff(LEVELS)),
        Specimen("TIFF 16 bit", "tif", lambda: _tiff(DEEP)),
        Specimen("TIFF LZW", "tif", lambda: _pillow(LEVELS, "TIFF", compression="tiff_lzw")),
        Specimen("TIFF JPEG", "tif", lambda: _pillow(LEVELS, "TIFF", compression="jpeg"), LOSSY),
        Specimen("WebP", "webp", lambda: _pillow(LEVELS, "WEBP", lossless=True)),
        Specimen("BMP", "bmp", lambda: _pillow(LEVELS, "BMP")),
        Specimen("GIF", "gif", lambda: _pillow(LEVELS, "GIF")),
        Specimen("PGM", "pgm", lambda: b"P5 16 16 255\n" + LEVELS.tobytes()),
        Specimen("NIfTI", "nii", _nifti),
        Specimen("NRRD", "nrrd", _nrrd),
        Specimen("MetaImage", "mha", _metaimage),
    )


def stream(name: str) -> bytes:
    return base64.b64decode(_STREAMS[name])


def _pillow(values: npt.NDArray[np.generic], kind: str, **options: object) -> bytes:
    from PIL import Image

    file = BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return file.getvalue()


def _tiff(values: npt.NDArray[np.generic]) -> bytes:
    from tifffile import imwrite

    file = BytesIO()
    imwrite(file, values, photometric="minisblack")
    return file.getvalue()


def _nifti() -> bytes:
    """One axial slice in radiological convention: the patient's left on the right, anterior up."""
    import nibabel

    volume = DEEP.T[::-1, ::-1, None].astype(np.int16)
    data: bytes = nibabel.Nifti1Image(volume, np.eye(4)).to_bytes()
    return data


def _nrrd() -> bytes:
    """One axial slice; its axes go to the patient's left and back, as on a screen."""
    lines = ("NRRD0004", "type: uint16", "dimension: 3", "sizes: 16 16 1", "encoding: raw", "endian: little",
             "space: left-posterior-superior", "space directions: (1,0,0) (0,1,0) (0,0,1)")  # fmt: skip
    return "\n".join(lines).encode() + b"\n\n" + DEEP.astype("<u2").tobytes()


def _metaimage() -> bytes:
    lines = ("ObjectType = Image", "NDims = 3", "DimSize = 16 16 1", "ElementType = MET_USHORT",
             "ElementDataFile = LOCAL")  # fmt: skip
    return "\n".join(lines).encode() + b"\n" + DEEP.astype("<u2").tobytes()


def dicom(syntax: Syntax) -> bytes:
    """The image as a DICOM file in this transfer syntax. Raises ImportError where pydicom is missing."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID, SecondaryCaptureImageStorage

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = uid = UID(syntax.uid)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, UID("2.25.1")
    encoding = {"is_implicit_VR": uid.is_implicit_VR, "is_little_endian": uid.is_little_endian}
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128), **encoding)
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, UID("2.25.1")
    dataset.Rows = dataset.Columns = SIDE
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = (
        8 if syntax.bits == 8 else 16,
        syntax.bits,
        syntax.bits - 1,
    )
    if syntax.stream:
        dataset.PixelData = encapsulate([stream(syntax.stream)])
    else:
        dataset.PixelData = DEEP.astype("<u2" if uid.is_little_endian else ">u2").tobytes()
    dataset["PixelData"].VR = "OB" if syntax.stream else "OW"
    file = BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


_STREAMS = {
    "jpeg 12 bit": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
        "AQEBAQEBAQEBAQEBAQH/wQALDAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAACw7/xAAcEAAABgMAAAAAAAAAAAAAAAAACQ0p"
        "NUhUZnL/2gAIAQEAAD8Anb8ttNxoBhfGrbxrQQALbTcaAYXxq28a0LwALbTcaAYXxq28a0EAC203GgGF8atvGtD//9k="
    ),
    "jpeg lossless": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAQABABAREA/8QAFwABAQEBAAAAAAAAAAAAAAAACAUJEP/aAAgBAQAGAADqFChQoUKF"
        "ChQoUKFChoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgEAgEAgEBoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgE"
        "AgEAgEBoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgEAgEAgEBoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgEAg"
        "EAgEBoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgEAgEAgEBoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgEAgEA"
        "gEBoAgEAgEAgEAgEAgEAgEAgEAgNAEAgEAgEAgEAgEAgEAgEAgEBoAgEAgEAgEAgEAgEAgEAgEAgP//Z"
    ),
    "jpeg lossless first order": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/wwALEAAQABABAREA/8QAFgABAQEAAAAAAAAAAAAAAAAABQkQ/9oACAEBAAEAAMgggggggggg"
        "gggghQBBBBBBBBBBBBBBBCgCCCCCCCCCCCCCCCFAEEEEEEEEEEEEEEEKAIIIIIIIIIIIIIIIUAQQQQQQQQQQQQQQQoAggggggggg"
        "ggggghQBBBBBBBBBBBBBBBCgCCCCCCCCCCCCCCCFAEEEEEEEEEEEEEEEKAIIIIIIIIIIIIIIIUAQQQQQQQQQQQQQQQoAgggggggg"
        "gggggghQBBBBBBBBBBBBBBBCgCCCCCCCCCCCCCCCFAEEEEEEEEEEEEEEEP/Z"
    ),
    "jpeg-ls": (
        "/9j/9wALEAAQABABAREA//gADQH//wASAEMBFABA/9oACAEBAAAAAKD8H4PwdhuD8HYbhmLxWJxGPjcAQgg9DkNRiLRSJSEdGRkV"
        "FQgwBERERERo0aNGjRIkSJB6/yJEiRIkSJEhQoooooc/yKKKKKKKKKKKKKKGv6iiiiiiiiiiiiigjH8QQhCEIQhCEIQi37QhCEIQ"
        "hCEIQhFP0hCEIRERERERL8oiIiIiIiIiQ/CIiIiIiSSR33SSSSSSSRn2SSSSSSVGfVVVVVUV9FVVVVRXzV//CP/Z"
    ),
    "jpeg-ls near": (
        "/9j/9wALDAAQABABAREA/9oACAEBAAIAAKtb1u9b29u+gWt3dmYibJpgC22m00pSsJlKlUqrmaVUqpXmbnz/DJ//cZP/fjJ//oyf"
        "/1GT/35i/3+Yv/8jF/98xf9/MX//QP/ZAA=="
    ),
    "jpeg": (
        "/9j/4AAQSkZJRgABAQAAAQABAAD/2wBDAAEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEB"
        "AQEBAQEBAQEBAQEBAQH/wAALCAAQABABAREA/8QAFQABAQAAAAAAAAAAAAAAAAAABwr/xAAbEAAABwEAAAAAAAAAAAAAAAAABQkl"
        "MkRR4v/aAAgBAQAAPwCdstTbiwZW5CAWptxYMrci8AtTbiwZW5CAWptxYMrcj//Z"
    ),
    "rle": (
        "AgAAAEAAAABgAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAPEA8QHxAvED8QTx"
        "BfEG8QfxCPEJ8QrxC/EM8Q3xDvEPDwAQIDBAUGBwgJCgsMDQ4PAPABAgMEBQYHCAkKCwwNDg8A8AECAwQFBgcICQoLDA0ODwDwAQ"
        "IDBAUGBwgJCgsMDQ4PAPABAgMEBQYHCAkKCwwNDg8A8AECAwQFBgcICQoLDA0ODwDwAQIDBAUGBwgJCgsMDQ4PAPABAgMEBQYHCA"
        "kKCwwNDg8A8AECAwQFBgcICQoLDA0ODwDwAQIDBAUGBwgJCgsMDQ4PAPABAgMEBQYHCAkKCwwNDg8A8AECAwQFBgcICQoLDA0ODw"
        "DwAQIDBAUGBwgJCgsMDQ4PAPABAgMEBQYHCAkKCwwNDg8A8AECAwQFBgcICQoLDA0ODwDwAQIDBAUGBwgJCgsMDQ4PA="
    ),
    "jpeg 2000": (
        "/0//UQApAAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABCwEB/1IADAAAAAEAAQQEAAH/XAAHQGBoaHD/ZAAlAAFD"
        "cmVhdGVkIGJ5IE9wZW5KUEVHIHZlcnNpb24gMi41LjT/kAAKAAAAAABeAAH/k9/g9BIrAwsLE+S5L4U/OFCLF3Xs/uu7v5kK41dJ"
        "ijMPeCQK4ToLNdAH+QBsRY8PBFqgRlGN7gnTuodlVO+c/Z/AHzhIPzBQNqGZzz2mNGDP/9k="
    ),
    "htj2k": (
        "/0//UQApQAAAAAAQAAAAEAAAAAAAAAAAAAAAEAAAABAAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUEBEAB/1wAEyCI"
        "kJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAH4AAf+TwAAmSfYFB3QAAMAAEsAAEwAiAYd0"
        "AEbyA4d0AMAAE0AAE4AQyAECdAAe6ZEAw1QAwAAVEAAFYIZhGKpwgnUAfvTDDz/+wFKB7LYAwAArIAAWkO7u7u7nwKenp8J4AP79"
        "/f39/f39/Yxge/Yxgey6AP/Z"
    ),
}
