"""Every file below a folder, and what each is: an image, plausibly one, or clearly something else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from indexer.errors import InputError
from indexer.pixels.sniff import sniff
from indexer.types import IMAGE_SUFFIXES

HEAD = 1024  # bytes that tell a file's kind
_SUFFIX_OF = {"jpeg": "jpg", "png": "png", "tiff": "tif", "webp": "webp", "bmp": "bmp", "gif": "gif", "pnm": "ppm",
              "dicom": "dcm", "nifti": "nii"}  # fmt: skip


@dataclass(frozen=True)
class Found:
    """A file as the walk saw it."""

    path: str  # below the source, "/" between its parts; bytes that are no UTF-8 as surrogates
    nbytes: int = 0
    modified: int = 0  # nanoseconds
    left_out: str = ""  # why it is not packed


def walk(root: Path) -> Iterator[Found]:
    """All files in one order, whatever the file system's. Raises InputError where `root` is no readable folder."""
    if not root.is_dir():
        raise InputError(f"{root} is no folder. Name the folder that holds the images.")
    try:
        yield from _below(root, "")
    except PermissionError as error:
        raise InputError(f"{error.filename} cannot be listed: {error.strerror}.") from error


def _below(folder: Path, prefix: str) -> Iterator[Found]:
    with os.scandir(folder) as listing:
        items = sorted(listing, key=lambda item: item.name)
    for item in items:
        path = prefix + item.name
        if item.is_dir(follow_symlinks=False):
            if item.name.startswith("."):
                yield from (Found(f.path, f.nbytes, 0, "hidden file") for f in _listed(Path(item.path), path + "/"))
                continue
            try:
                yield from _below(Path(item.path), path + "/")
            except PermissionError:
                yield Found(path + "/", left_out="folder that cannot be listed")
        elif item.is_symlink() and item.is_dir():
            yield Found(path, left_out="link to a folder")  # it may lead round in a circle
        else:
            yield _file(item, path)


def _listed(folder: Path, prefix: str) -> Iterator[Found]:
    try:
        yield from _below(folder, prefix)
    except PermissionError:
        yield Found(prefix, left_out="folder that cannot be listed")


def _file(item: os.DirEntry[str], path: str) -> Found:
    try:
        stat = item.stat()
    except OSError:
        return Found(path, left_out="broken link")
    if not item.is_file():
        return Found(path, left_out="no regular file")
    if item.name.startswith("."):
        return Found(path, stat.st_size, stat.st_mtime_ns, "hidden file")
    return Found(path, stat.st_size, stat.st_mtime_ns)


def image_kind(path: str, head: bytes) -> tuple[str, str, str]:
    """(kind, suffix in the shard, why it is left out). A file named like an image is one, whatever its bytes are:
    it goes into a shard, so that `indexer index` names it among its failures instead of nobody ever hearing of it.
    """
    suffix = known_suffix(path)
    kind = sniff(head, suffix or "")
    if kind:
        return kind, suffix if suffix and _fits(kind, suffix) else _SUFFIX_OF[kind], ""
    if suffix:
        return "", suffix, ""
    return "", "", "not an image"


def known_suffix(path: str) -> str:
    """The image suffix a name ends with, "" where it has none."""
    name = path.rpartition("/")[2].lower()
    endings = [suffix for suffix in IMAGE_SUFFIXES if name.endswith("." + suffix) and len(name) > len(suffix) + 1]
    return max(endings, key=len, default="")


def _fits(kind: str, suffix: str) -> bool:
    families = {"jpeg": ("jpg", "jpeg", "jpe", "jfif"), "tiff": ("tif", "tiff"), "pnm": ("ppm", "pgm"),
                "dicom": ("dcm", "dicom"), "nifti": ("nii", "nii.gz")}  # fmt: skip
    return suffix in families.get(kind, (kind,))
