"""Finds the slides that a user names: files, globs, and folders of slides."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from indexer.addresses import is_remote, plain
from indexer.archive.kind import Sources
from indexer.archive.left_out import LeftOut
from indexer.archive.samples import lasting_name, plain_name
from indexer.archive.slides.columns import BESIDE, SlideRows, resolution_of
from indexer.archive.slides.named import (
    FORMATS,
    KIND,
    SlideSource,
    beside,
    relative_to,
    slide_identity,
    slide_name,
    source_in,
)
from indexer.archive.walk import walk
from indexer.errors import InputError, PixelError, ShardNotFound
from indexer.slides.coordinates import file_of
from indexer.slides.process import require_reader, slide_facts
from indexer.types import Shard, TileRule

SUFFIXES = (*FORMATS, ".tif", ".tiff", ".dcm")
MIRAX, DICOM = ".mrxs", ".dcm"


@dataclass(frozen=True)
class SlideOptions:
    """What is given for all slides of a run; "" where it is not."""

    tiles: TileRule | None = None  # None: whatever the table's rule is
    coords: str = ""  # an HDF5 file of coordinates, or a folder of them
    mpp_of: str = ""  # a CSV file with the columns slide and mpp


@dataclass(frozen=True)
class _File:
    path: Path
    key: str
    others: tuple[str, ...] = ()  # further files of the slide


def find_slides(sources: Sequence[str], options: SlideOptions, *, hash_content: bool = False) -> Sources:
    """The slides in order, and notes on what was left out. Raises InputError, ShardNotFound."""
    require_reader()
    notes: list[str] = []
    given = SlideRows(_existing(options.mpp_of, "--mpp-of")) if options.mpp_of else None
    coords = _existing(options.coords, "--coords") if options.coords else None
    shards: dict[str, Shard] = {}
    served: dict[Path, str] = {}  # file of coordinates → its slide
    tables: dict[Path, SlideRows] = {}  # each slides.csv, which many named slides may lie beside
    for root in (root for source in sources for root in _roots(source)):
        csv = (root if root.is_dir() else root.parent) / BESIDE
        if csv not in tables and csv.is_file():
            tables[csv] = SlideRows(csv)
        rows = tables.get(csv)
        for file in _files(root, notes):
            path = lasting_name(file.path)
            found = file_of(coords, file.path) if coords else None
            if coords and found is None:
                notes.append(f"{file.key} has no file of coordinates in {coords} and is not read")
                continue
            if found and served.setdefault(found, path) != path:
                raise InputError(
                    f"--coords: {found} would be taken for {served[found]} and for {path}. Name a folder with a file "
                    "for each slide; index slides of the same name apart."
                )
            source = SlideSource(
                file.key,
                resolution_of(given, file.key) if given else None,
                relative_to(path, found) if found else "",
                relative_to(path, csv) if rows else "",
            )
            shard = _shard(path, source, rows, file.others, hash_content=hash_content)
            if shards.setdefault(path, shard) is not shard:
                notes.append(f"{file.key} was named twice; it is read once")
    for table in (*tables.values(), *([given] if given else [])):
        notes.extend([*table.notes, *table.unused()])
    if not shards:
        left_out = f" Passed over: {'; '.join(notes)}." if notes else ""
        raise ShardNotFound(f"no slide under {', '.join(sources)}.{left_out} Name a folder of slides.")
    slides = tuple(replace(shard, tiles=options.tiles) for shard in shards.values())
    return Sources(slides, tuple(dict.fromkeys(notes)))


def slide_again(name: str, url: str, identity: str, *, hash_content: bool) -> Shard:
    """A slide of a ledger as it is now. Raises InputError, OSError."""
    source = source_in(name, identity)
    rows = SlideRows(Path(beside(url, source.csv))) if source.csv else None
    path = Path(url)
    others = _parts_of_mirax(path)
    if path.suffix.lower() == DICOM:
        others = tuple(str(p) for p in _series(sorted(path.parent.glob("*"))).get(path, ()))
    return _shard(url, source, rows, others, hash_content=hash_content)


def _shard(
    path: str, source: SlideSource, rows: SlideRows | None, others: tuple[str, ...], *, hash_content: bool
) -> Shard:
    row = rows.of(source.key) if rows else {}
    identity = slide_identity(path, source, row, others, hash_content=hash_content)
    beside_it = tuple(beside(path, name) for name in (source.coords, source.csv) if name)
    return Shard(path, slide_name(path, source.key), identity, KIND, roots=beside_it)


def _existing(given: str, flag: str) -> Path:
    path = Path(given)
    if not path.exists():
        raise InputError(f"{flag}: no file or folder {given}.")
    return path


def _roots(source: str) -> list[Path]:
    source = plain(source)
    if is_remote(source):
        raise InputError(f"{source}: slides are read from a local disk or a mounted folder. Name one.")
    if Path(source).exists():
        return [Path(source)]
    found = sorted(glob.glob(source, recursive=True)) if glob.has_magic(source) else []  # noqa: PTH207 - absolute ones
    if not found:
        raise ShardNotFound(f"nothing matches {source}. Give a folder of slides, a slide, or a glob in quotes.")
    return [Path(path) for path in found]


def _files(root: Path, notes: list[str]) -> list[_File]:
    """The slides below a folder, or the one that is named; `notes` gets what is left out by reason."""
    if root.is_dir():
        return _files_below(root, notes)
    if root.suffix.lower() not in SUFFIXES:
        raise InputError(f"{root} is no slide by its suffix ({', '.join(SUFFIXES)}). Without --tile, images are read.")
    if root.suffix.lower() != DICOM:
        return [_File(root, plain_name(root.name), _parts_of_mirax(root))]
    series = _series(sorted(root.parent.glob("*")))
    first = next((first for first, others in series.items() if root in (first, *others)), root)
    return [_File(first, plain_name(first.name), tuple(map(str, series.get(first, ()))))]


def _files_below(root: Path, notes: list[str]) -> list[_File]:
    left_out = LeftOut()
    dicom: dict[Path, list[Path]] = {}  # by folder
    slides: list[_File] = []
    for found in walk(root):
        path, suffix = root / found.path, Path(found.path).suffix.lower()
        if found.left_out:
            left_out.add(found.left_out, found.path)
        elif suffix == DICOM:
            dicom.setdefault(path.parent, []).append(path)
        elif suffix in SUFFIXES:
            slides.append(_File(path, plain_name(found.path), _parts_of_mirax(path)))
        elif found.path != BESIDE and not path.parent.with_suffix(MIRAX).is_file():
            left_out.add("no slide by its suffix", found.path)
    for files in dicom.values():
        series = _series(files)
        slide_files = {path for first, others in series.items() for path in (first, *others)}
        for path in (path for path in files if path not in slide_files):
            left_out.add("DICOM, not a whole slide", path.relative_to(root).as_posix())
        slides += [
            _File(first, plain_name(first.relative_to(root).as_posix()), tuple(map(str, others)))
            for first, others in series.items()
        ]
    notes.extend(f"not read under {root}: {words}" for words in left_out.words())
    return sorted(slides, key=lambda file: file.key.split("/"))


def _series(files: Sequence[Path]) -> dict[Path, list[Path]]:
    """The DICOM slides of one folder: the first file of each series, and the others."""
    by_series: dict[str, list[Path]] = {}
    for path in files:
        if path.suffix.lower() != DICOM:
            continue
        try:
            by_series.setdefault(slide_facts(str(path.resolve())).series, []).append(path)
        except PixelError:  # no slide, which is noted; a damaged file of a slide fails with it
            continue
    return {first: others for first, *others in by_series.values()}


def _parts_of_mirax(path: Path) -> tuple[str, ...]:
    """The files that belong to a MIRAX slide, in the folder of its name."""
    if path.suffix.lower() != MIRAX:
        return ()
    return tuple(str(part) for part in sorted(path.with_suffix("").glob("*")) if part.is_file())
