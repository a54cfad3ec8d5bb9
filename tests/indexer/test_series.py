"""Series of slices: their order is SimpleITK's, and each flaw has its name in `indexer info --by series`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from indexer.groups.listing import listed_groups
from indexer.pack.headers.secret import load_secret
from indexer.store.table import EmbeddingStore
from tests.commands import call
from tests.fakes import AnyPlane
from tests.tables import make_table, unit_rows

N, STEP = 7, 2.5
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
SOURCE = pydicom.dcmread(str(get_testdata_file("MR_small.dcm")))


def normal_of(axes: tuple[float, ...]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.cross(axes[:3], axes[3:])


def write_series(
    folder: Path, change: Callable[[int, Dataset], None] = lambda _n, _image: None, axes: tuple[float, ...] = AXIAL
) -> str:
    """N slices along the normal, in files whose names are in another order; returns the SeriesInstanceUID."""
    folder.mkdir(parents=True)
    series, study = generate_uid(), generate_uid()
    names = np.random.default_rng(len(folder.name)).permutation(N)
    for n in range(N):
        image = copy.deepcopy(SOURCE)
        for word in ("SpacingBetweenSlices", "TriggerTime", "FrameReferenceTime", "TemporalPositionIdentifier"):
            if word in image:
                del image[word]
        image.SeriesInstanceUID, image.StudyInstanceUID, image.SOPInstanceUID = series, study, generate_uid()
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID
        image.ImageOrientationPatient = list(axes)
        image.ImagePositionPatient = [round(float(v), 6) for v in 10 + normal_of(axes) * STEP * n]
        image.PatientID, image.EchoTime, image.InstanceNumber = "p1", 30, N - n
        change(n, image)
        image.save_as(folder / f"f{names[n]}.dcm")
    return str(series)


def moved(n_from: int, by: Any) -> Callable[[int, Dataset], None]:
    def change(n: int, image: Dataset) -> None:
        if n >= n_from:
            image.ImagePositionPatient = [a + b for a, b in zip(image.ImagePositionPatient, by, strict=True)]

    return change


def place(n: int) -> list[float]:
    return [10.0, 10.0, 10 + STEP * n]


def set_to(word: str, value: Callable[[int], Any], position: Callable[[int], Any] | None = None) -> Any:
    def change(n: int, image: Dataset) -> None:
        setattr(image, word, value(n))
        if position:
            image.ImagePositionPatient = position(n)

    return change


def missing(n: int, image: Dataset) -> None:
    if n == 3:
        del image.ImagePositionPatient


def tilted(n: int, image: Dataset) -> None:
    image.ImagePositionPatient = [10, 10 + 0.5 * n, 10 + STEP * n]


FLAWED: dict[str, tuple[Callable[[int, Dataset], None], list[str]]] = {
    "missing": (missing, ["positions missing", "gaps"]),
    "doubled": (
        set_to("InstanceNumber", int, lambda n: place(n // 2)),
        ["positions doubled, with nothing that tells the copies apart"],
    ),
    "echoes": (set_to("EchoTime", lambda n: 30 + n % 2, lambda n: place(n // 2)), ["several echoes"]),
    "phases": (set_to("TemporalPositionIdentifier", lambda n: n % 2 + 1, lambda n: place(n // 2)), ["several phases"]),
    "gap": (moved(4, (0, 0, 2 * STEP)), ["gaps"]),
    "mixed": (set_to("ImageOrientationPatient", lambda n: list(AXIAL if n else OBLIQUE)), ["several orientations"]),
    "tilt": (tilted, ["gantry tilt"]),
    "contradiction": (set_to("SpacingBetweenSlices", lambda _n: 5.0), ["spacing contradicts the header's"]),
    "patients": (set_to("PatientID", lambda n: "p1" if n else "p2"), ["several patients"]),
    "acquisitions": (
        set_to("AcquisitionNumber", lambda n: n % 2 + 4, lambda n: place(n // 2)),
        ["several acquisitions"],
    ),
    "times": (set_to("TriggerTime", lambda n: 40 * (n % 2), lambda n: place(n // 2)), ["several times"]),
}
SOUND = {
    "axial": AXIAL,
    "oblique": OBLIQUE,
    "feet": (1.0, 0.0, 0.0, 0.0, -1.0, 0.0),
    "coronal": (1.0, 0.0, 0.0, 0.0, 0.0, -1.0),
}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("series")
    for name, (change, _) in FLAWED.items():
        write_series(root / "in" / name, change)
    for name, axes in SOUND.items():
        write_series(root / "in" / name, axes=axes)
    done = call("indexer", "pack", root / "in", root / "shards", "--secret", root / "secret", "--new-secret")
    assert done.code == 0, done.err
    with mock.patch("indexer.encoders.load", return_value=AnyPlane()):
        done = call("indexer", "index", root / "shards", root / "db", "--json")
        assert done.code == 0, done.err
        (root / "report.json").write_text(done.out)
    return root


def names_of(root: Path) -> dict[str, str]:
    """Folder → the series of its files, as its hash is stored."""
    keyed, found = load_secret(root / "secret", outside=root / "in", make=False)[0], dict[str, str]()
    for folder in sorted((root / "in").iterdir()):
        image = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
        found[folder.name] = keyed("series", str(image.SeriesInstanceUID))
    return found


def test_each_flawed_series_is_named_with_its_flaw_and_no_sound_one_is(archive) -> None:
    found = call("indexer", "info", archive / "db", "--by", "series", "--json").json
    flags = {group["series"]: group["flags"] for group in found["groups"]}
    named = {folder: flags[series] for folder, series in names_of(archive).items()}
    assert named == {name: words for name, (_, words) in FLAWED.items()} | {name: [] for name in SOUND}
    assert found["count"] == len(FLAWED) + len(SOUND)
    shown = call("indexer", "info", archive / "db", "--by", "series", "--flagged")
    assert len(shown.out.splitlines()) == 1 + len(FLAWED)
    assert "gantry tilt 1" in shown.err


def test_the_summary_of_a_run_counts_the_flawed_series_by_flaw_with_examples(archive) -> None:
    wanted: dict[str, list[str]] = {}
    for folder, series in names_of(archive).items():
        for flaw in FLAWED[folder][1] if folder in FLAWED else ():
            wanted.setdefault(flaw, []).append(series)
    found = json.loads((archive / "report.json").read_text())["series_flaws"]
    assert found == [
        {"flaw": flaw, "series": len(names), "examples": sorted(names)[:3]} for flaw, names in sorted(wanted.items())
    ]
    with mock.patch("indexer.encoders.load", return_value=AnyPlane()):
        again = call("indexer", "index", archive / "shards", archive / "db2")
    assert f"series: 1 x gantry tilt ({wanted['gantry tilt'][0]})" in again.out
    (summary,) = (archive / "db2").glob("*.runs/*/summary.md")
    assert "- 1 × gantry tilt\n" in summary.read_text()
    assert not any(series in summary.read_text() for series in names_of(archive).values())


# In a process of its own: SimpleITK and faiss both wrap std::vector<float> with SWIG, which knows one wrapper a process
SIMPLEITK = """
import json, sys
import SimpleITK
reader = SimpleITK.ImageSeriesReader()
files = reader.GetGDCMSeriesFileNames(sys.argv[1])
reader.SetFileNames(files)
print(json.dumps([list(files), reader.Execute().GetSpacing()[2]]))
"""


@pytest.mark.skipif(find_spec("SimpleITK") is None, reason="SimpleITK is not installed")
@pytest.mark.parametrize("name", list(SOUND))
def test_order_and_spacing_of_a_sound_series_are_those_of_simpleitk(archive, name) -> None:
    asked = [sys.executable, "-c", SIMPLEITK, str(archive / "in" / name)]
    files, spacing = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    series = names_of(archive)[name]
    store = EmbeddingStore.open(str(archive / "db"))
    rows = store.vectors(f"series = '{series}'", ["instance", "part_z"]).columns.to_pylist()
    rows.sort(key=lambda row: row["part_z"])
    keyed, _ = load_secret(archive / "secret", outside=archive / "in", make=False)
    uids = [str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in files]
    assert [row["instance"] for row in rows] == [keyed("instance", uid) for uid in uids]
    (own,) = [group for group in listed_groups(store, "series") if group.group == series]
    assert own.geometry is not None
    assert own.geometry.spacing == pytest.approx(spacing, abs=1e-3)
    assert (own.geometry.positions, own.rows) == (N, N)


def test_groups_of_photographs_have_rows_and_no_flaws_whatever_the_room(tmp_path) -> None:
    facts = [{"case": f"c{i % 9}"} if i % 10 else {} for i in range(90)]
    store = make_table(tmp_path / "db", unit_rows(90, 8), facts)
    wanted = {f"c{c}": sum(1 for fact in facts if fact.get("case") == f"c{c}") for c in range(9)}
    for room in (1 << 20, 1):
        assert {g.group: g.rows for g in listed_groups(store, "case", held_bytes=room)} == wanted
        assert all(g.geometry is None for g in listed_groups(store, "case", held_bytes=room))
