"""A folder tree as a source of `pack`."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from indexer.archive.samples import IMAGE_ENDINGS, is_archive, sidecar_fields, sidecar_of
from indexer.archive.walk import ListedFile, walk
from indexer.errors import PixelError
from indexer.memory.budget import MAX_SIDECAR
from indexer.pack.headers.dicom_fields import instance_of, is_directory, read_header, series_of
from indexer.pack.source import Scanned
from indexer.pixels.limits import check_bytes
from indexer.pixels.sniff import DICOM_SUFFIXES, sniff
from indexer.types import SERIES
from indexer.user_tables.joining import image_suffix

HEAD = 1024  # bytes read to detect a file's kind
BESIDE = "metadata beside an image"
_SUFFIX_OF = {"jpeg": "jpg", "png": "png", "tiff": "tif", "webp": "webp", "bmp": "bmp", "gif": "gif", "pnm": "ppm",
              "dicom": "dcm", "nifti": "nii", "series": SERIES, "nrrd": "nrrd", "metaimage": "mha"}  # fmt: skip


@dataclass(frozen=True)
class Folder:
    """A folder tree; implements `source.Source`."""

    root: Path
    follow_links: bool = False  # also to files outside `root`

    def list(self) -> Iterator[ListedFile]:
        return walk(self.root)

    def scan(self, found: ListedFile) -> Scanned:
        if found.left_out:
            return Scanned(found, left_out=found.left_out)
        if not self._inside(self.root / found.path):
            return Scanned(found, left_out="link out of the source")
        try:
            with (self.root / found.path).open("rb") as file:
                head = file.read(HEAD)
                kind, suffix, left_out = image_kind(found.path, head)
                if left_out:
                    reason = _other(self.root / found.path, left_out)
                    return Scanned(found, left_out=reason, labels=reason == BESIDE and _holds_label(self.root, found))
                if found.nbytes:
                    check_bytes(found.nbytes)
                if kind == "dicom":
                    return _with_header(found, kind, suffix, file)
                return Scanned(found, kind, suffix, readable=suffix not in DICOM_SUFFIXES)
        except PixelError as error:
            return Scanned(found, left_out=error.reason)
        except OSError:
            return Scanned(found, left_out="unreadable file")

    def read(self, path: str) -> bytes:
        if not self._inside(self.root / path):
            raise OSError(errno.EPERM, "a link that leads out of the source")
        return (self.root / path).read_bytes()

    def sidecar(self, path: str) -> bytes:
        file = self.root / sidecar_of(path)
        if not file.is_file():
            return b""
        if not self._inside(file):
            raise OSError(errno.EPERM, "a link that leads out of the source")
        return file.read_bytes()

    def _inside(self, file: Path) -> bool:
        """Whether a file lies in the source: a handed-over folder must not carry off files that its links name."""
        return self.follow_links or not file.is_symlink() or file.resolve().is_relative_to(self.root.resolve())


def _other(path: Path, reason: str) -> str:
    """The reason for a file that is not an image; more exact for JSON beside an image, and for archives."""
    if is_archive(path.name):
        return "archive, not unpacked: unpack it first"
    beside = path.suffix == ".json" and any(path.with_name(f"{path.stem}{ending}").exists() for ending in IMAGE_ENDINGS)
    return BESIDE if beside else reason


def _holds_label(root: Path, found: ListedFile) -> bool:
    """Whether a JSON file has a value for `label`; not asked of a damaged or very large one."""
    try:
        return found.nbytes <= MAX_SIDECAR and sidecar_fields((root / found.path).read_bytes()).get("label") is not None
    except (OSError, ValueError):
        return False


def _with_header(found: ListedFile, kind: str, suffix: str, file: BinaryIO) -> Scanned:
    file.seek(0)
    header = read_header(file)
    if header is None:
        return Scanned(found, kind, suffix, readable=False)
    if is_directory(header):
        return Scanned(found, left_out="DICOMDIR")
    burned_in = str(header.get("BurnedInAnnotation", "")) == "YES"
    return Scanned(found, kind, suffix, "", instance_of(header), burned_in, series=series_of(header))


def image_kind(path: str, head: bytes) -> tuple[str, str, str]:
    """(kind, suffix in the shard, reason to leave it out).

    A file with an image's suffix is packed whatever its bytes are, so that `indexer index` reports its failure.
    """
    suffix = image_suffix(path) or ""
    kind = sniff(head, suffix)
    if kind:
        return kind, suffix if suffix and _fits(kind, suffix) else _SUFFIX_OF[kind], ""
    if suffix:
        return "", suffix, ""
    return "", "", "not an image"


def _fits(kind: str, suffix: str) -> bool:
    families = {"jpeg": ("jpg", "jpeg", "jpe", "jfif"), "tiff": ("tif", "tiff"), "pnm": ("ppm", "pgm"),
                "dicom": ("dcm", "dicom"), "nifti": ("nii", "nii.gz"), "series": (SERIES,),
                "nrrd": ("nrrd", "nhdr"), "metaimage": ("mha", "mhd")}  # fmt: skip
    return suffix in families.get(kind, (kind,))
