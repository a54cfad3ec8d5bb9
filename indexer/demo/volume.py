"""The demo's data: one real brain volume as 16-bit DICOM slices with its geometry, and altered slices as queries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from indexer.types import Float32

PLANES = ("sagittal", "coronal", "axial")  # cut along x, y, z of the template's RAS axes
# row and column directions of a displayed slice, in DICOM's LPS axes
ORIENTATIONS = {"sagittal": (0, 1, 0, 0, 0, -1), "coronal": (1, 0, 0, 0, 0, -1), "axial": (1, 0, 0, 0, 1, 0)}
QUERY_EVERY = 6  # one slice in six is held out of the archive and becomes a query
FULL_SCALE = 30_000  # stored value of the brightest voxel
MIN_TISSUE = 0.02  # share of bright pixels below which a slice is air


@dataclass(frozen=True)
class Slice:
    """One cut through the volume."""

    plane: str
    millimetres: float  # along the plane's axis, in the template's space
    pixels: Float32  # (h, w) 0..1, as displayed: anterior or superior up
    query: bool


def slices() -> Iterator[Slice]:
    """Sagittal, coronal and axial slices, 1 mm apart, of the MNI152 T1 average brain that nilearn ships."""
    from nilearn.datasets import load_mni152_template

    image = load_mni152_template(resolution=1)
    volume = np.ascontiguousarray(image.dataobj, np.float32)  # otherwise np.take would copy all of it for each slice
    for axis, plane in enumerate(PLANES):
        for i in range(volume.shape[axis]):
            cut = np.take(volume, i, axis=axis)
            if (cut > 0.1).mean() < MIN_TISSUE:
                continue
            millimetres = float(image.affine[axis, axis] * i + image.affine[axis, 3])
            held_out = round(abs(millimetres)) % QUERY_EVERY == 1  # on both sides: the template is symmetric
            yield Slice(plane, millimetres, np.ascontiguousarray(np.rot90(cut)), held_out)


def write_dicom(item: Slice, path: Path) -> None:
    """A 16-bit MR image with its position in millimetres, without a patient."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

    name = f"{item.plane}{item.millimetres}"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = MRImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[name])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds: Any = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientID, ds.PatientName = "MNI152", "average^brain"
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=[item.plane])
    ds.Modality, ds.BodyPartExamined = "MR", "BRAIN"
    ds.Rows, ds.Columns = item.pixels.shape
    ds.PixelSpacing, ds.SliceThickness = [1, 1], 1
    ds.ImageOrientationPatient = list(ORIENTATIONS[item.plane])
    # only the coordinate along the slice's normal is used; RAS x and y are minus DICOM's
    sign = 1 if item.plane == "axial" else -1
    position = [0.0, 0.0, 0.0]
    position[PLANES.index(item.plane)] = sign * item.millimetres
    ds.ImagePositionPatient, ds.SliceLocation = position, item.millimetres
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.WindowCenter, ds.WindowWidth = FULL_SCALE // 2, FULL_SCALE
    ds.PixelData = (item.pixels * FULL_SCALE).astype("<u2").tobytes()
    pydicom.dcmwrite(path, ds, enforce_file_format=True)


def changed(item: Slice, rng: np.random.Generator) -> Float32:
    """The slice turned by up to 15 degrees, zoomed by up to 15 % and with another gamma: a query (h, w) 0..1."""
    from scipy.ndimage import affine_transform

    angle = np.deg2rad(rng.uniform(-15, 15))
    zoom, gamma = rng.uniform(0.85, 1.15), rng.uniform(0.7, 1.4)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    centre = (np.array(item.pixels.shape) - 1) / 2
    moved = affine_transform(item.pixels, turn, offset=centre - turn @ centre, order=1)
    result: Float32 = np.clip(moved, 0, 1).astype(np.float32) ** np.float32(gamma)
    return result


def write_archive(cuts: Sequence[Slice], root: Path) -> dict[str, Slice]:
    """Write the DICOM tree, with one truncated file and one that is not an image; returns the archive's slices."""
    kept = {}
    for item in cuts:
        if item.query:
            continue
        path = root / item.plane / f"{item.plane}_{item.millimetres:+07.1f}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_dicom(item, path)
        kept[path.relative_to(root).as_posix()] = item
    whole = sorted((root / "axial").glob("*.dcm"))[40]
    (root / "axial" / "truncated.dcm").write_bytes(whole.read_bytes()[: whole.stat().st_size // 3])
    (root / "axial" / "no_image.dcm").write_bytes(b"This is a letter, not an image.\n" * 40)
    return kept


def write_queries(cuts: Sequence[Slice], root: Path, *, seed: int) -> dict[str, tuple[Slice, Float32]]:
    """Write the held-out slices, altered, as 8-bit PNG; returns path → (unaltered slice, altered pixels)."""
    from PIL import Image

    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    written = {}
    for item in cuts:
        if item.query:
            path = root / f"{item.plane}_{item.millimetres:+07.1f}.png"
            pixels = changed(item, rng)
            Image.fromarray((pixels * 255).round().astype(np.uint8)).save(path)
            written[str(path)] = (item, pixels)
    return written
