"""One picture in every format of the decode benchmark, and what a user would otherwise write to read it back."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import simplejpeg
import tifffile
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRLittleEndian, SecondaryCaptureImageStorage

TARGET = 224  # side of the square that an encoder sees
Read = Callable[[bytes], np.ndarray]


@dataclass(frozen=True)
class Kind:
    """`make` writes a colour (h, w, 3) uint8 picture in the format; `usual` is Pillow's way to the same square."""

    name: str
    suffix: str
    make: Callable[[np.ndarray], bytes]
    usual: Read


def by_pillow(data: bytes, resize: int = TARGET, size: int = TARGET) -> np.ndarray:
    """8 bits: open, convert, resize, crop, as the encoders' own preprocessing does."""
    return _square(Image.open(io.BytesIO(data)).convert("RGB"), resize, size)


def deep_by_pillow(data: bytes) -> np.ndarray:
    """16 bits, percentiles first: `convert` alone would turn the picture white."""
    return _square(_shown(np.asarray(Image.open(io.BytesIO(data)))))


def by_pydicom(data: bytes) -> np.ndarray:
    """pixel_array, the two LUTs, 8 bits by the result's range, Pillow."""
    dataset = pydicom.dcmread(io.BytesIO(data))
    values = dataset.pixel_array
    if values.ndim == 3:
        return _square(Image.fromarray(values))
    return _square(_shown(apply_voi_lut(apply_modality_lut(values, dataset), dataset)))


def _shown(values: np.ndarray) -> Image.Image:
    low, high = np.percentile(values, (0.5, 99.5))
    return Image.fromarray((np.clip((values - low) / (high - low), 0, 1) * 255).astype(np.uint8)).convert("RGB")


def _square(image: Image.Image, resize: int = TARGET, size: int = TARGET) -> np.ndarray:
    scale = resize / min(image.size)
    width, height = (max(resize, int(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def deep(picture: np.ndarray) -> np.ndarray:
    """(h, w) uint16 of 12 bits, as an X-ray or a CT holds it: the picture's green, with a detector's noise."""
    noise = np.random.default_rng(0).normal(0, 6, picture.shape[:2])
    return np.clip(picture[..., 1].astype(np.float32) * 16 + noise, 0, 4095).astype(np.uint16)


def _jpeg(quality: int, grey: bool = False) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        if grey:
            return simplejpeg.encode_jpeg(np.ascontiguousarray(picture[..., 1:2]), quality, "GRAY")
        return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality, "RGB", "420")

    return make


def _pillow(kind: str, **options: Any) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, kind, **options)
        return file.getvalue()

    return make


def _tiff(picture: np.ndarray) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, deep(picture), photometric="minisblack")
    return file.getvalue()


def _dataset(values: np.ndarray, syntax: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = SecondaryCaptureImageStorage, UID("2.25.1")
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, UID("2.25.1")
    dataset.Rows, dataset.Columns = values.shape[:2]
    colour = values.ndim == 3
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 3 if colour else 1, 0
    if colour:
        dataset.PlanarConfiguration = 0
    dataset.PhotometricInterpretation = "YBR_FULL_422" if colour else "MONOCHROME2"
    dataset.BitsAllocated = 8 * values.itemsize
    dataset.BitsStored = 8 if values.itemsize == 1 else 12
    dataset.HighBit = dataset.BitsStored - 1
    dataset.WindowCenter, dataset.WindowWidth = 2048, 4096
    return dataset


def _written(dataset: FileDataset) -> bytes:
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def _dicom(syntax: str = ExplicitVRLittleEndian) -> Callable[[np.ndarray], bytes]:
    def make(picture: np.ndarray) -> bytes:
        dataset = _dataset(deep(picture), ExplicitVRLittleEndian)
        dataset.PixelData = deep(picture).tobytes()
        if syntax != ExplicitVRLittleEndian:
            dataset.compress(syntax)
        return _written(dataset)

    return make


def _dicom_jpeg(picture: np.ndarray) -> bytes:
    dataset = _dataset(picture, "1.2.840.10008.1.2.4.50")
    dataset.PixelData = encapsulate([_jpeg(75)(picture)])
    return _written(dataset)


def _dicom_lossless_jpeg(picture: np.ndarray) -> bytes:
    """pydicom writes none of these; GDCM does."""
    import gdcm

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "in.dcm", Path(folder) / "out.dcm"
        source.write_bytes(_dicom()(picture))
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(str(source))
        reader.Read()
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        change.SetInput(reader.GetImage())
        change.Change()
        writer.SetFileName(str(target))
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        writer.Write()
        return target.read_bytes()


KINDS = (
    Kind("JPEG", "jpg", _jpeg(75), by_pillow),  # 75 is the default of libjpeg and Pillow
    Kind("JPEG, quality 90", "jpg", _jpeg(90), by_pillow),
    Kind("JPEG, grey", "jpg", _jpeg(75, grey=True), by_pillow),
    Kind("PNG, 8 bits", "png", _pillow("PNG"), by_pillow),
    Kind("PNG, 16 bits", "png", lambda p: _pillow("PNG")(deep(p)), deep_by_pillow),
    Kind("TIFF, 16 bits", "tif", _tiff, deep_by_pillow),
    Kind("WebP", "webp", _pillow("WEBP", quality=80), by_pillow),
    Kind("BMP", "bmp", _pillow("BMP"), by_pillow),
    Kind("DICOM, uncompressed", "dcm", _dicom(), by_pydicom),
    Kind("DICOM, RLE", "dcm", _dicom("1.2.840.10008.1.2.5"), by_pydicom),
    Kind("DICOM, JPEG", "dcm", _dicom_jpeg, by_pydicom),
    Kind("DICOM, JPEG lossless", "dcm", _dicom_lossless_jpeg, by_pydicom),
    Kind("DICOM, JPEG-LS", "dcm", _dicom("1.2.840.10008.1.2.4.80"), by_pydicom),
    Kind("DICOM, JPEG 2000", "dcm", _dicom("1.2.840.10008.1.2.4.90"), by_pydicom),
)
