"""`indexer pack`: packs an archive into WebDataset shards."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from indexer.cores import cores
from indexer.options import counted, emit, json_option, patient_pattern_option, say

if TYPE_CHECKING:
    from indexer.pack.report import PackReport

_PATH = click.Path(path_type=Path)


@click.command(
    "pack",
    epilog="SRC may be a DICOM tree (names and depth do not matter, DICOMDIR is ignored), a folder of images, "
    "a folder per class, or dicomweb+http://host:port/dicom-web?Modality=MR. Pixels are stored as they are; of DICOM "
    "headers only what decoding needs, without names, dates, free text and private elements (--keep-headers: all). "
    "A run that was stopped goes on where it was; the same source gives the same shards byte for byte. DEST may be a "
    "bucket's prefix (s3://bucket/shards, gs://, az://): each shard is made in the folder for temporary files and "
    "uploaded whole, and what a resumed run needs lies beside it in .pack.",
)
@click.argument("source", metavar="SRC")
@click.argument("destination", metavar="DEST")
@click.option("--csv", type=_PATH, help="A CSV or Parquet file whose columns become metadata, one row per file.")
@click.option("--on", metavar="COLUMN", help="Its column of paths below SRC. Default: path, file, filename or image.")
@click.option("--encoding", metavar="NAME", help="Its encoding, e.g. cp1252. Default: UTF-8, or by its first bytes.")
@click.option("--hash", "hashed", metavar="COLUMN", multiple=True, help="Its column to store as a keyed hash.")
@click.option("--secret", type=_PATH, help="File with the hashes' key.  [default: in ~/.config, made on first use]")
@click.option("--new-secret", is_flag=True, help="Create the file of --secret if it is missing.")
@patient_pattern_option(
    "The part of PatientID that names the patient, where it also holds a view or side, e.g. 'P_\\d+'."
)
@click.option("--site", default="", metavar="NAME", help="Used for a missing IssuerOfPatientID.")
@click.option(
    "--key",
    "split",
    type=click.Choice(["last-dot", "first-dot"]),
    default="last-dot",
    show_default=True,
    help="With first-dot, dots in keys are written %2E: webdataset, which cuts names at the first dot, then reads the "
    "same samples.",
)
@click.option("--shard-mb", type=click.IntRange(1), default=256, show_default=True, help="A shard closes at this size.")
@click.option("--shard-files", type=click.IntRange(1), default=10_000, show_default=True, help="Or at so many images.")
@click.option("--processes", type=click.IntRange(1), help="Worker processes.  [default: cores, at most 8]")
@click.option("--refuse-burned-in", is_flag=True, help="Leave out files that say BurnedInAnnotation YES.")
@click.option(
    "--deidentify/--keep-headers", default=True, show_default=True, help="DICOM headers by allow-list, or as they are."
)
@click.option(
    "--series",
    is_flag=True,
    help="Make one image of the files of each DICOM series, its slices ordered by position: for indexer index "
    "--channels 3.",
)
@click.option("--follow-links", is_flag=True, help="Also pack what links point to outside SRC.")
@click.option("--replace", is_flag=True, help="Overwrite shards of another run in DEST.")
@click.option("--dry-run", is_flag=True, help="Count what would be done, write nothing.")
@json_option
def command(
    source: str,
    destination: str,
    csv: Path | None,
    on: str | None,
    encoding: str | None,
    hashed: tuple[str, ...],
    secret: Path | None,
    new_secret: bool,
    patient_pattern: str,
    site: str,
    split: str,
    shard_mb: int,
    shard_files: int,
    processes: int | None,
    refuse_burned_in: bool,
    deidentify: bool,
    series: bool,
    follow_links: bool,
    replace: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Pack a DICOM tree, an image folder or a DICOMweb server into WebDataset shards.

    DICOM metadata and headers come from an allow-list, identifiers as keyed hashes; pixels are not de-identified.
    """
    from indexer.pack.run import PackOptions, pack
    from indexer.progress.terminal import Terminal

    options = PackOptions(
        source=source,
        destination=destination,
        secret=secret,
        new_secret=new_secret,
        csv=csv,
        on=on,
        encoding=encoding,
        hashed=hashed,
        patient_pattern=patient_pattern,
        site=site,
        split=split,
        shard_bytes=shard_mb << 20,
        shard_files=shard_files,
        processes=processes or min(8, cores()),
        refuse_burned_in=refuse_burned_in,
        keep_headers=not deidentify,
        series=series,
        follow_links=follow_links,
        replace=replace,
        dry_run=dry_run,
    )
    report = pack(options, progress=Terminal())
    emit(report, as_json=as_json, text=_text)
    if not report.packed:
        say(f"error: {source} holds no image to pack. Name another source.", err=True)
        sys.exit(1)


def _text(report: PackReport) -> str:
    from indexer.pack.report import KEPT

    would = "would pack" if report.dry_run else "packed"
    lines = [
        f"{would} {report.packed:,} of {counted(report.files, 'file')} ({_counts(report.kinds)}) "
        f"into {counted(report.shards, 'shard')}, {report.nbytes / 1e6:,.1f} MB, in {report.seconds:.1f} s",
    ]
    if report.headers == KEPT:
        lines.append("DICOM headers: kept as they are, with names and dates (--keep-headers)")
    elif report.headers:
        lines.append("DICOM headers: de-identified by allow-list; text burned into pixels stays")
    if report.shards_kept:
        lines.append(f"there already: {counted(report.shards_kept, 'shard')}")
    if report.left_out:
        lines.append(f"left out: {_counts(report.left_out)}")
    for count, words in (
        (report.same_instance, "with the SOPInstanceUID of another"),
        (report.same_bytes, "with the bytes of another"),
        (report.burned_in, "with text burned into the pixels, by the header (--refuse-burned-in leaves such out)"),
        (report.whole_ids, "with a PatientID that --patient-pattern does not match: it names the patient whole"),
        (report.without_header, "that should be DICOM by name, without a readable header"),
        (report.files_without_row, "without a row in the table"),
    ):
        if count:
            lines.append(f"{counted(count, 'file')} {words}")
    if report.rows_without_file:
        lines.append(f"{counted(report.rows_without_file, 'row')} of the table without a packed file")
    lines += report.notes
    if report.list_of_files:
        lines.append(f"every file and its key: {report.list_of_files}")
    return "\n".join(lines)


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
