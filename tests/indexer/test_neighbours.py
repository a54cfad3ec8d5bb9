"""A slice between its neighbours as three channels: `indexer pack --series` and `indexer index --channels 3`."""

from __future__ import annotations

import copy
import io
import json
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from indexer.errors import PixelError, WindowError
from indexer.pixels import decode, decode_part
from indexer.store.table import EmbeddingStore
from indexer.types import PixelSpec
from tests.commands import call
from tests.fakes import AnyPlane
from tests.indexer.test_series import OBLIQUE, SIMPLEITK, SOURCE, N, place, set_to, write_series

SIDE, WINDOW = 64, (900.0, 1400.0)
SPEC = PixelSpec(SIDE, SIDE, fit="squash", window="900,1400", channels=3)
UInt8 = np.ndarray[Any, np.dtype[np.uint8]]


def grey(values: Any) -> UInt8:
    """LINEAR of PS3.3 C.11.2.1.2, in numpy."""
    centre, width = WINDOW
    shade = np.clip((np.asarray(values, float) - (centre - 0.5)) / (width - 1) + 0.5, 0, 1)
    return np.rint(shade * 255).astype(np.uint8)


def between(slices: list[UInt8]) -> list[UInt8]:
    """Each slice of a stack between its neighbours; an end is repeated."""
    last = len(slices) - 1
    return [np.stack([slices[max(0, n - 1)], slices[n], slices[min(last, n + 1)]], axis=-1) for n in range(last + 1)]


def shown(data: bytes, suffix: str, **options: Any) -> list[UInt8]:
    return [picture.pixels for picture in decode(data, suffix, SPEC, **options)]


def of_brightness(n: int, image: Dataset) -> None:
    """Pixels that no other slice has."""
    image.PixelData = np.random.default_rng(n).integers(200, 1600, (SIDE, SIDE), np.int16).tobytes()


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("neighbours")

    def echoes(n: int, image: Dataset) -> None:
        of_brightness(n, image)
        image.EchoTime, image.ImagePositionPatient = 30 + n % 2, place(n // 2)

    write_series(root / "in" / "oblique", of_brightness, axes=OBLIQUE)
    write_series(root / "in" / "echoes", echoes)
    write_series(root / "in" / "doubled", set_to("InstanceNumber", int, lambda n: place(n // 2)))
    copy.deepcopy(SOURCE).save_as(root / "in" / "alone.dcm")
    files = [f"oblique/{file.name}" for file in (root / "in" / "oblique").iterdir()]
    (root / "table.csv").write_text("path,site,grade\n" + "".join(f"{f},A,{n}\n" for n, f in enumerate(files)))
    words = ("--series", "--csv", root / "table.csv", "--new-secret", "--secret", root / "secret")
    done = call("indexer", "pack", root / "in", root / "shards", *words)
    assert done.code == 0, done.err
    assert "left out of series whose slices differ in them: grade" in done.out
    assert "4 series are one image each" in done.out
    return root


def packed(root: Path) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """Folder, or file, of the source → the series' bytes and metadata."""
    listed = (root / "shards" / ".pack" / "files.csv").read_text().splitlines()[1:]
    keys = {line.split(",")[0].split("/")[0]: line.split(",")[2] for line in listed}
    with tarfile.open(root / "shards" / "shard-000000.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    return {name: (members[f"{key}.dcm.zip"], json.loads(members[f"{key}.json"])) for name, key in keys.items()}


@pytest.mark.skipif(find_spec("SimpleITK") is None, reason="SimpleITK is not installed")
def test_a_packed_series_has_the_slices_in_simpleitks_order_each_between_its_neighbours(archive):
    asked = [sys.executable, "-c", SIMPLEITK, str(archive / "in" / "oblique")]
    files, _ = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    data, metadata = packed(archive)["oblique"]
    wanted = between([grey(pydicom.dcmread(file).pixel_array) for file in files])
    assert np.array_equal(shown(data, "dcm.zip"), wanted)
    assert np.array_equal(shown(data, "dcm.zip", frames="middle"), wanted[N // 2 : N // 2 + 1])
    assert {"series", "patient", "study", "modality"} <= metadata.keys()
    assert metadata["site"] == "A"
    assert not {"instance", "grade"} & metadata.keys()  # of a slice
    alone = decode_part(data, "dcm.zip", SPEC, "2").pixels  # to be looked at
    assert np.array_equal(alone, np.repeat(wanted[2][..., 1:2], 3, axis=-1))


def test_two_echoes_of_a_series_are_two_stacks(archive):
    files = [pydicom.dcmread(file) for file in (archive / "in" / "echoes").iterdir()]
    files.sort(key=lambda image: (image.ImagePositionPatient[2], image.EchoTime))
    slices = [grey(image.pixel_array) for image in files]
    stacks = {echo: between([s for s, f in zip(slices, files, strict=True) if f.EchoTime == echo]) for echo in (30, 31)}
    wanted = [stacks[30 + n % 2][n // 2] for n in range(N)]
    found = {picture.tobytes() for picture in shown(packed(archive)["echoes"][0], "dcm.zip")}
    assert found == {picture.tobytes() for picture in wanted}


def frames(places: list[float], times: list[float]) -> tuple[bytes, UInt8]:
    """An enhanced object of grey frames at these positions (mm), and its pixels by the window."""
    image = copy.deepcopy(SOURCE)
    values = np.random.default_rng(5).integers(200, 1600, (len(places), SIDE, SIDE), np.int16)
    image.PixelData, image.NumberOfFrames = values.tobytes(), len(places)
    for word in ("ImagePositionPatient", "TriggerTime"):
        image.pop(word, None)
    groups = []
    for z, seconds in zip(places, times, strict=True):
        own, at, time = Dataset(), Dataset(), Dataset()
        at.ImagePositionPatient, time.TemporalPositionTimeOffset = [0, 0, z], seconds
        own.PlanePositionSequence, own.TemporalPositionSequence = Sequence([at]), Sequence([time])
        groups.append(own)
    image.PerFrameFunctionalGroupsSequence = Sequence(groups)
    image.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    for n, own in enumerate(groups):  # as scanners round them: two decimals of these differ
        turn = Dataset()
        turn.ImageOrientationPatient = [0.99216, 0.12499 + 0.00002 * (n % 2), 0, -0.125, 0.99216, 0]
        own.PlaneOrientationSequence = Sequence([turn])
    out = io.BytesIO()
    image.save_as(out)
    return out.getvalue(), grey(values)


def test_frames_are_neighbours_by_position_and_those_at_one_position_by_their_order_in_time():
    data, slices = frames([4.0, 0.0, 8.0], [0.0, 0.0, 0.0])
    assert np.array_equal(shown(data, "dcm"), [between(list(slices[[1, 0, 2]]))[n] for n in (1, 0, 2)])
    data, slices = frames([0.0, 3.0, 6.0, 6.0, 0.0, 3.0], [0.1, 0.2, 0.3, 1.3, 1.1, 1.2])
    first, second = between(list(slices[[0, 1, 2]])), between(list(slices[[4, 5, 3]]))
    assert np.array_equal(shown(data, "dcm"), [*first, second[2], second[0], second[1]])
    data, _ = frames([0.0, 3.0, 3.0], [0.0, 1.0, 1.0])
    with pytest.raises(PixelError, match=r"2 parts at 3.*, and neither echo, phase, acquisition nor time"):
        shown(data, "dcm")


@pytest.mark.parametrize("isolated", [False, True])
def test_slices_of_a_volume_are_neighbours_within_it_in_whatever_plane(monkeypatch, isolated):
    nibabel = pytest.importorskip("nibabel")
    if isolated:
        monkeypatch.setattr("indexer.pixels.kinds.PLAIN_BYTES", 100)
    values = np.random.default_rng(1).integers(200, 1600, (SIDE, 40, SIDE, 2)).astype(np.int16)
    data = nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 1.0, 1.0])).to_bytes()
    spec = PixelSpec(SIDE, SIDE, fit="squash", window="900,1400", plane="coronal", channels=3)
    found = [picture.pixels for picture in decode(data, "nii", spec, time="all")]
    wanted = [between([grey(values[:, y, :, t].T[::-1, ::-1]) for y in range(40)]) for t in (0, 1)]
    assert np.array_equal(found, [*wanted[0], *wanted[1]])


def image_of(values: Any, kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.asarray(values, np.uint8)).save(out, kind)
    return out.getvalue()


def test_one_grey_image_is_itself_three_times_and_colour_or_pages_without_positions_are_refused():
    values = np.random.default_rng(2).integers(0, 255, (SIDE, SIDE))
    (picture,) = decode(image_of(values, "PNG"), "png", PixelSpec(SIDE, SIDE, channels=3))
    assert np.array_equal(picture.pixels, np.repeat(values[..., None], 3, axis=-1))
    assert picture.flags == ("one slice in all three channels",)
    assert list(decode(image_of(np.repeat(values[..., None], 3, -1), "PNG"), "png", SPEC))
    with pytest.raises(PixelError, match="image in colour"):
        shown(image_of(np.stack([values, values, values[::-1]], -1), "PNG"), "png")
    pages, out = [Image.fromarray(values.astype(np.uint8)) for _ in range(3)], io.BytesIO()
    pages[0].save(out, "TIFF", save_all=True, append_images=pages[1:])
    with pytest.raises(PixelError, match="3 of 3 parts have no position"):
        shown(out.getvalue(), "tif")
    with pytest.raises(WindowError, match="one with --channels 3"):
        next(decode(b"x", "png", PixelSpec(SIDE, SIDE, window="lung;bone;brain", channels=3)))


def test_a_table_has_slices_with_neighbours_or_without_and_says_which_images_have_none(archive, tmp_path, monkeypatch):
    monkeypatch.setattr("indexer.encoders.load", lambda *_, **__: AnyPlane())
    monkeypatch.setattr("indexer.encoders.load_spec", lambda spec, **_: AnyPlane().with_pixels(spec.pixels))
    source = next((archive / "in" / "oblique").iterdir())
    done = call("indexer", "index", archive / "shards", tmp_path / "db", "--channels", 3, "--json")
    assert (done.code, done.json["embedded"]) == (0, 2 * N + 1), done.err
    table = tmp_path / "db"
    assert call("indexer", "failures", table, "--json").json[0]["reason"] == "order of slices unknown"
    store = EmbeddingStore.open(str(table))
    assert store.spec.pixels.channels == 3
    rows = store.vectors("part_z IS NOT NULL", ["key", "series", "part_z"]).columns.to_pylist()
    assert len({row["series"] for row in rows}) == 3
    again = call("indexer", "index", archive / "shards", table)
    assert (again.code, "pixels.channels 3 / 1" in again.err) == (1, True)
    loose = call("indexer", "index", archive / "in", tmp_path / "loose", "--channels", 3, "--json")
    reasons = call("indexer", "failures", tmp_path / "loose", "--summary", "--json").out
    assert loose.code == 1
    assert "slice without its series" in reasons
    query = call("indexer", "search", table, source, "--json")
    assert query.code == 0, query.err
    windows = call("indexer", "index", archive / "shards", table, "--channels", 3, "--window", "lung;bone;brain")
    assert (windows.code, "takes one window" in windows.err) == (2, True)
