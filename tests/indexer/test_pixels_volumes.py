"""Series of volumes in one NIfTI file, against the volumes that nibabel cuts out of it."""

from __future__ import annotations

import gzip
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from itertools import islice

import numpy as np
import pytest

from indexer.errors import PixelError
from indexer.pixels import decode, decode_part, open_image
from indexer.store.table import EmbeddingStore
from indexer.types import PixelSpec
from tests.commands import call

nibabel = pytest.importorskip("nibabel")
SPEC = PixelSpec(24, 24, window="percentile", plane="coronal")


def series(*times: int, unit: str = "msec") -> nibabel.Nifti1Image:
    """Volumes of 6 x 5 x 4 voxels of different brightness, turned in space."""
    rng = np.random.default_rng(3)
    shape = (6, 5, 4, *times)
    values = rng.integers(0, 900, shape) * np.arange(1, np.prod(times) + 1).reshape(times)
    affine = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3, 11], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(values.astype(np.int16), affine)
    image.header.set_xyzt_units("mm", unit)
    image.header["pixdim"][4] = 2_500
    image.header["toffset"] = 500
    return image


def alone(image: nibabel.Nifti1Image, at: tuple[int, ...]) -> bytes:
    """One volume as a file of its own."""
    return nibabel.Nifti1Image(np.asarray(image.dataobj)[(..., *at)], image.affine, image.header).to_bytes()


def shown(data: bytes, frames: str = "all", time: str = "first") -> list[tuple[str, bytes]]:
    suffix = "nii.gz" if data[:2] == b"\x1f\x8b" else "nii"
    return [(found.part.name, found.pixels.tobytes()) for found in decode(data, suffix, SPEC, frames=frames, time=time)]


@pytest.mark.parametrize("isolated", [False, True])
def test_all_volumes_are_the_slices_of_each_in_the_files_order(monkeypatch, isolated):
    image = series(3)
    data = image.to_bytes()
    truth = [shown(alone(image, (t,))) for t in range(3)]
    slices = len(truth[0])
    if isolated:  # as an image of more than a plain one is
        monkeypatch.setattr("indexer.pixels.kinds.PLAIN_BYTES", 100)
    found = shown(data, time="all")
    assert [pixels for _, pixels in found] == [pixels for volume in truth for _, pixels in volume]
    assert len({pixels for _, pixels in found}) == len(found)
    assert [name for name, _ in found] == [str(n) for n in range(3 * slices)]
    assert shown(data) == found[:slices]
    assert shown(gzip.compress(data), time="all") == found
    assert shown(data, "middle", "all") == [found[t * slices + slices // 2] for t in range(3)]
    assert shown(data, "first", "all") == found[::slices]
    one = decode_part(data, "nii", SPEC, found[-2][0])
    assert (one.pixels.tobytes(), one.flags) == (found[-2][1], ())
    flags = {time: {f.flags for f in decode(data, "nii", SPEC, time=time)} for time in ("first", "all")}
    assert flags == {"first": {("first volume of a series",)}, "all": {()}}
    with open_image(data, "nii", SPEC) as opened, open_image(alone(image, (0,)), "nii", SPEC) as first:
        facts = [dict(part.facts) for part in opened.parts()]
        heights = [part.facts["z"] for part in first.parts()]
    assert [own["z"] for own in facts] == 3 * heights
    assert [own["phase"] for own in facts] == [n // slices + 1 for n in range(3 * slices)]
    assert [own["time"] for own in facts] == [0.5 + 2.5 * (n // slices) for n in range(3 * slices)]


def test_volumes_of_more_dimensions_come_in_the_order_in_which_they_lie_in_the_file():
    image = series(2, 3, unit="unknown")
    found = shown(image.to_bytes(), time="all")
    truth = [shown(alone(image, (t, u))) for u in range(3) for t in range(2)]
    assert [pixels for _, pixels in found] == [pixels for volume in truth for _, pixels in volume]
    with open_image(image.to_bytes(), "nii", SPEC) as opened:
        assert "time" not in opened.parts()[-1].facts


def test_a_truncated_series_yields_its_whole_volumes_and_then_the_error():
    data = series(4).to_bytes()
    whole = shown(data, time="all")
    pictures = decode(data[:-150], "nii", SPEC, time="all")
    found = [(one.part.name, one.pixels.tobytes()) for one in islice(pictures, 3 * len(whole) // 4)]
    with pytest.raises(PixelError):
        next(pictures)
    assert found == whole[: 3 * len(whole) // 4]
    assert shown(data[:-150]) == whole[: len(whole) // 4]


def test_the_command_embeds_the_first_volume_or_all_of_them_into_one_table_with_equal_rows(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    nibabel.save(series(3), source / "v.nii.gz")
    reports = {
        time: call("indexer", "index", source, tmp_path / time, "--plane", "coronal", "--time", time, "--json").json
        for time in ("first", "all")
    }
    assert {time: report["embedded"] for time, report in reports.items()} == {"first": 6, "all": 18}
    assert reports["first"]["fingerprint"] == reports["all"]["fingerprint"]
    stored = {}
    for time in reports:
        read = EmbeddingStore.open(str(tmp_path / time)).vectors(columns=["key", "part_phase", "part_time"])
        rows = zip(*(read.columns.column(name).to_pylist() for name in ("key", "part_phase", "part_time")), strict=True)
        stored[time] = {row: vector.tobytes() for row, vector in zip(rows, read.vectors, strict=True)}
    assert stored["first"].items() <= stored["all"].items()
    assert {(phase, seconds) for _, phase, seconds in stored["all"]} == {(1, 0.5), (2, 3.0), (3, 5.5)}
    (listed,) = call("indexer", "info", tmp_path / "all", "--by", "content", "--json").json["groups"]
    assert (listed["rows"], listed["positions"], listed["flags"]) == (18, 6, ["several phases"])


# Raw and compressed, of three kinds, of one volume turned in space; a series; and headers whose data lie elsewhere
WRITTEN = """
import sys
import numpy as np, SimpleITK
folder = sys.argv[1]
values = np.random.default_rng(0).integers(0, 900, (6, 7, 5))
for name, kind in (("short", np.int16), ("float", np.float32), ("long", np.int64), ("byte", np.uint8)):
    image = SimpleITK.GetImageFromArray(values.astype(kind))
    image.SetSpacing((1.5, 2.0, 3.0))
    image.SetOrigin((5, -7, 11))
    image.SetDirection((0, -0.8, 0.6, 1, 0, 0, 0, 0.6, 0.8))
    for ending, packed in (("nrrd", False), ("mha", False), ("packed.nrrd", True), ("packed.mha", True)):
        SimpleITK.WriteImage(image, f"{folder}/{name}.{ending}", packed)
    if name != "long":
        SimpleITK.WriteImage(image, f"{folder}/{name}.nii")
series = SimpleITK.JoinSeries([image, image * 2])
for name in ("s.nrrd", "s.mha", "s.nii"):
    SimpleITK.WriteImage(series, f"{folder}/{name}")
for name in ("apart.nhdr", "apart.mhd"):
    SimpleITK.WriteImage(image, f"{folder}/{name}")
SimpleITK.WriteImage(SimpleITK.Compose(image, image, image), f"{folder}/colour.nrrd")
SimpleITK.WriteImage(SimpleITK.Compose(image, image, image), f"{folder}/colour.mha")
"""


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    if find_spec("SimpleITK") is None:
        pytest.skip("SimpleITK is not installed")
    folder = tmp_path_factory.mktemp("written")  # in a process of its own: SimpleITK and faiss do not share one
    subprocess.run([sys.executable, "-c", WRITTEN, str(folder)], check=True)
    return folder


def facts_and_pixels(path, plane="axial", time="first"):
    spec = PixelSpec(24, 24, window="percentile", plane=plane)
    suffix = path.name.rpartition(".")[2]
    return [
        (dict(found.part.facts), found.pixels.tobytes()) for found in decode(path.read_bytes(), suffix, spec, time=time)
    ]


@pytest.mark.parametrize("kind", ["nrrd", "mha", "packed.nrrd", "packed.mha"])
def test_nrrd_and_metaimage_have_the_slices_of_the_nifti_that_simpleitk_writes(written, kind):
    for plane in ("axial", "coronal", "sagittal"):
        for name in ("short", "float", "byte"):
            wanted = facts_and_pixels(written / f"{name}.nii", plane)
            assert len(wanted) == len({pixels for _, pixels in wanted}) > 4
            found = facts_and_pixels(written / f"{name}.{kind}", plane)
            assert [pixels for _, pixels in found] == [pixels for _, pixels in wanted]
            assert [own["z"] for own, _ in found] == pytest.approx([own["z"] for own, _ in wanted], abs=1e-3)
        assert [p for _, p in facts_and_pixels(written / f"long.{kind}", plane)] == [
            p for _, p in facts_and_pixels(written / "short.nii", plane)
        ]
    if "packed" not in kind:
        series = [pixels for _, pixels in facts_and_pixels(written / f"s.{kind}", time="all")]
        assert series == [pixels for _, pixels in facts_and_pixels(written / "s.nii", time="all")]


def test_volumes_in_another_file_or_form_are_refused_by_name(written):
    plain, meta = (written / "short.nrrd").read_bytes(), (written / "short.mha").read_bytes()
    refused = {
        "in another file": [(written / "apart.nhdr").read_bytes(), (written / "apart.mhd").read_bytes()],
        "encoding bzip2": [plain.replace(b"encoding: raw", b"encoding: bzip2")],
        "not grey values": [(written / "colour.nrrd").read_bytes()],
        "3 values a voxel": [(written / "colour.mha").read_bytes()],
        "bytes of voxels": [plain[:-9], meta[:-9]],
        "of type block": [plain.replace(b"type: short", b"type: block")],
        "corrupt image": [
            plain.replace(b"sizes: 5 7 6", b"sizes: 5 7"),
            meta.replace(b"DimSize = 5", b"DimSize = x 5"),
        ],
        "unsupported image": [plain.replace(b"sizes: 5 7 6", b"sizes: 5 -7 6")],
        "too many pixels": [
            plain.replace(b"sizes: 5", b"sizes: 99999999999"),
            meta.replace(b"= 5 7", b"= 99999999999 7"),
        ],
    }
    for words, files in refused.items():
        for data in files:
            with pytest.raises(PixelError, match=words):
                list(decode(data, "", SPEC))


def test_a_damaged_volume_is_a_named_failure(written):
    rng = np.random.default_rng(1)
    for name in ("byte.nrrd", "byte.mha", "byte.packed.nrrd", "byte.packed.mha"):
        whole = (written / name).read_bytes()
        for _ in range(60):
            data = bytearray(whole[: rng.integers(10, len(whole))] if rng.random() < 0.5 else whole)
            for at in rng.integers(0, min(len(data), 500), 3):
                data[at] = rng.integers(0, 256)
            with suppress(PixelError):  # any other error is a crash
                list(decode(bytes(data), name.rpartition(".")[2], SPEC))
