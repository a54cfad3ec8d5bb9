"""Packing DICOM against copying the same files: `python -m benchmarks.pack`.

Slices of 512 px and 12 bits (pieces of photographs with a detector's noise, under the header of a real CT that pydicom
ships) in folders of one series each, in the usual transfer syntaxes. `cp -r` and an fsync of each copy, since `pack`
syncs its shards too, take turns with `indexer pack`, which reads and replaces every header. MB are of the source files.
The files are in the page cache. `kept`: `--keep-headers`, so what de-identification costs is seen apart.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pydicom
from pydicom.data import get_testdata_file
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from benchmarks.decode_files import deep
from benchmarks.photographs import mosaic
from benchmarks.provenance import RESULTS, write

SIDE, SERIES = 512, 50  # pixels; slices of one series
PICTURES = 20  # different pixels; encoding JPEG 2000 takes longer than packing it
SYNTAXES = {
    "uncompressed": str(ExplicitVRLittleEndian),
    "RLE": "1.2.840.10008.1.2.5",
    "JPEG-LS": "1.2.840.10008.1.2.4.80",
    "JPEG 2000": "1.2.840.10008.1.2.4.90",
}
GOAL = 0.25  # MB/s of `pack` over MB/s of the copy, of uncompressed files


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_400, help="of each transfer syntax")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {name: measured(Path(scratch), name, args.images, args.rounds) for name in SYNTAXES}
    ratio = found["uncompressed"]["over_copy"]
    result: dict[str, Any] = {
        "images": args.images, "side": SIDE, "rounds": args.rounds, "syntaxes": found,
        "missed": [] if ratio >= GOAL else [f"uncompressed: {ratio:.2f} of the copy's rate < {GOAL}"],
    }  # fmt: skip
    result = write(RESULTS / "pack.json", result)
    print(json.dumps(result) if args.json else table(result))
    return 1 if result["missed"] else 0


def measured(scratch: Path, name: str, images: int, rounds: int) -> dict[str, Any]:
    source, target = scratch / "source", scratch / "target"
    nbytes = tree(source, SYNTAXES[name], images)
    pack = [sys.executable, "-m", "indexer", "pack", source, target, "--secret", scratch / "secret", "--new-secret"]
    ways: dict[str, Callable[[], object]] = {
        "copy": lambda: copied(source, target),
        "pack": lambda: ran(pack),
        "kept": lambda: ran([*pack, "--keep-headers"]),
    }
    taken: list[dict[str, tuple[float, float]]] = []
    for _ in range(rounds):
        taken.append({})
        for way, call in ways.items():
            taken[-1][way] = clocked(call)
            shutil.rmtree(target)
    shutil.rmtree(source)
    seconds = {way: statistics.median(r[way][0] for r in taken) for way in ways}
    return {
        "megabytes": nbytes / 1e6,
        "megabytes_per_second": {way: nbytes / 1e6 / s for way, s in seconds.items()},
        "cpu_ms_per_image": {way: 1e3 * statistics.median(r[way][1] for r in taken) / images for way in ways},
        "over_copy": statistics.median(r["copy"][0] / r["pack"][0] for r in taken),
        "kept_over_copy": statistics.median(r["copy"][0] / r["kept"][0] for r in taken),
        "rounds": taken,
    }


def tree(root: Path, syntax: str, images: int) -> int:
    """Write the files, each with UIDs of its own; returns their bytes."""
    template = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    template.Rows = template.Columns = SIDE
    template.BitsStored, template.HighBit, template.PixelRepresentation = 12, 11, 0
    encoded: list[Any] = []
    for seed in range(min(PICTURES, images)):
        template.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        template["PixelData"].VR = "OW"
        template["PixelData"].is_undefined_length = False
        template.PixelData = deep(mosaic(SIDE, seed)).astype("<u2").tobytes()
        if syntax != ExplicitVRLittleEndian:
            template.compress(syntax, generate_instance_uid=False)
        encoded.append(template["PixelData"])
    nbytes = 0
    for number in range(images):
        series = number // SERIES
        path = root / f"series{series:03d}" / f"{number:06d}.dcm"
        path.parent.mkdir(parents=True, exist_ok=True)
        template[0x7FE00010] = encoded[number % len(encoded)]
        template.PatientID = f"P{series}"
        template.SeriesInstanceUID = generate_uid(entropy_srcs=[f"series{series}"])
        template.StudyInstanceUID = generate_uid(entropy_srcs=[f"study{series}"])
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
        template.ImagePositionPatient = [0, 0, float(number % SERIES)]
        template.save_as(path)
        nbytes += path.stat().st_size
    return nbytes


def copied(source: Path, target: Path) -> None:
    ran(["cp", "-r", source, target])
    ran(["sync", *sorted(target.rglob("*.dcm"))])


def ran(command: Sequence[object]) -> None:
    subprocess.run([*map(str, command)], check=True, capture_output=True)


def clocked(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the wall clock, and CPU seconds of child processes."""
    before, start = _cpu(), time.perf_counter()
    call()
    return time.perf_counter() - start, _cpu() - before


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def table(result: dict[str, Any]) -> str:
    lines = [f"{'MB/s':14}{'copy':>9}{'pack':>9}{'kept':>9}{'pack/copy':>12}"]
    for name, one in result["syntaxes"].items():
        rates = "".join(f"{one['megabytes_per_second'][way]:9.0f}" for way in ("copy", "pack", "kept"))
        lines.append(f"{name:14}{rates}{one['over_copy']:12.2f}")
    lines += [f"goal missed: {words}" for words in result["missed"]] or ["the goal is met"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
