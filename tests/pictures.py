"""Pictures made for the tests, and the ways to encode them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
CT_CLASS = "1.2.840.10008.5.1.4.1.1.2"


def dicom_file(name: str) -> bytes:
    return (DICOM / name).read_bytes()


def scene(height: int = 240, width: int = 320) -> np.ndarray:
    """(h, w, 3) uint8: smooth shades and sharp edges."""
    y, x = np.mgrid[:height, :width]
    red = 127 + 120 * np.sin(x / 17) * np.cos(y / 23)
    green = 255 * y / height
    blue = np.where((x // 40 + y // 40) % 2, 220, 30)
    return np.stack([red, green, blue], -1).astype(np.uint8)


def deep(height: int = 120, width: int = 160, top: int = 4000, seed: int = 0) -> np.ndarray:
    """(h, w) uint16: a ramp with noise, as a CT or an X-ray holds it."""
    ramp = np.linspace(0, top, height * width).reshape(height, width)
    noisy = ramp + np.random.default_rng(seed).normal(0, top / 50, ramp.shape)
    return np.clip(noisy, 0, 65535).astype(np.uint16)


def encoded(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()


def damaged_pages(count: int, damaged: int) -> bytes:
    """A deflated TIFF of different pages, of which one cannot be unpacked."""
    data = bytearray(tiff(np.stack([deep(40, 40, seed=n) for n in range(count)]), photometric="minisblack",
                          compression="zlib"))  # fmt: skip
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[damaged]
        start, nbytes = page.dataoffsets[0], page.databytecounts[0]
    data[start : start + nbytes] = b"\xff" * nbytes
    return bytes(data)


def dicom(pixels: np.ndarray, **elements: Any) -> bytes:
    """A DICOM file of `pixels`: (h, w) or (h, w, 3), frames in front where `NumberOfFrames` is given."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = elements.get("SOPClassUID", CT_CLASS)
    meta.MediaStorageSOPInstanceUID = elements.get("SOPInstanceUID") or generate_uid(
        entropy_srcs=[pixels.tobytes()[:64].hex()]
    )
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    frames = 1 if "NumberOfFrames" in elements else 0
    colour = pixels.ndim - frames == 3
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Rows, dataset.Columns = pixels.shape[frames : frames + 2]
    dataset.SamplesPerPixel = 3 if colour else 1
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    for keyword, value in elements.items():
        setattr(dataset, keyword, value)
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelData = pixels.tobytes()
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def members(shard: Path) -> dict[str, bytes]:
    """A tar's members, read by Python's own reader."""
    import tarfile

    with tarfile.open(shard) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}


def samples(folder: Path) -> dict[str, dict[str, Any]]:
    """Key → JSON of every sample in a folder of shards."""
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        for name, data in members(shard).items():
            if name.endswith(".json"):
                found[name.removesuffix(".json")] = json.loads(data)
    return found


def listed(destination: Path) -> dict[str, dict[str, str]]:
    """`pack`'s list of files: path → its row."""
    with (destination / ".pack" / "files.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row for row in csv.DictReader(file)}
