"""Folders: every file is read or counted with its reason, in one order, in memory that does not grow with them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from functools import partial
from pathlib import Path

import pytest

import indexer.archive.spool as spool
import indexer.archive.walk as walking
from indexer.archive.reader import read_shard
from indexer.archive.shards import find_shards
from indexer.errors import ShardNotFound
from indexer.types import Sample, Shard
from tests.archives import png, write_tar
from tests.memory import least_peak
from tests.pictures import deep, dicom


def samples(source: Path) -> dict[str, Sample]:
    found = [s for shard in find_shards([str(source)]).shards for s in read_shard(shard)]
    assert all(isinstance(s, Sample) for s in found)
    return {s.key: s for s in found if isinstance(s, Sample)}


def write(folder: Path, names: list[str], data: bytes = b"x") -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def in_format_1(root: Path) -> dict[str, tuple[str, list[str]]]:
    """Shard name → identity and files, as tables of format 1 have them: by sorting every path in memory."""
    buckets: dict[int, list[str]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        name = path.relative_to(root).as_posix()
        buckets.setdefault(hashlib.blake2b(os.fsencode(name), digest_size=1).digest()[0], []).append(name)
    found = {}
    for number, names in buckets.items():
        stats = {name: (root / name).stat() for name in names}
        text = "".join(f"{n}\0{s.st_size}-{s.st_mtime_ns}\0" for n, s in stats.items())
        found[f"{root}#{number:03d}"] = hashlib.sha256(os.fsencode(text)).hexdigest()[:32], names
    return found


AWKWARD = [
    *(f"d{i % 7}/e{i % 3}/{i * 7919 % 1000}.png" for i in range(300)),
    "a.png", "a-b/c.png", "a/b.png", "a.b/c.png", "A/x.png", "née/ü.png", "line\nbreak.png", "zz/1.2.840.3",
    *(os.fsdecode(f"{i}-".encode() + b"\xff.png") for i in range(5)),
]  # fmt: skip


@pytest.mark.parametrize(("in_memory", "block"), [(20_000, 128), (7, 3)])
def test_a_folders_shards_are_those_of_older_tables_however_little_is_held(tmp_path, monkeypatch, in_memory, block):
    monkeypatch.setattr(walking, "SORTED", in_memory)
    monkeypatch.setattr(spool, "BLOCK", block)
    write(tmp_path, AWKWARD)
    found = {s.name: (s.identity, list(s.files)) for s in find_shards([str(tmp_path)]).shards}
    assert found == in_format_1(tmp_path)


def test_a_shard_sent_to_another_process_lists_the_same_files(tmp_path):
    write(tmp_path, AWKWARD)
    shards = find_shards([str(tmp_path)]).shards
    sent: list[Shard] = pickle.loads(pickle.dumps(list(shards)))
    assert [(s, list(s.files)) for s in sent] == [(s, list(s.files)) for s in shards]


def test_memory_does_not_grow_with_the_files_of_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(walking, "SORTED", 500)
    monkeypatch.setattr(spool, "BLOCK", 4)  # else the 256 unfinished blocks hold most names of so few files
    peaks = {}
    for files in (3000, 9000):
        write(tmp_path / str(files), [f"{i:06d}-a-longer-name-for-a-file.png" for i in range(files)])
        peaks[files] = least_peak(partial(find_shards, [str(tmp_path / str(files))]))
    assert (peaks[9000] - peaks[3000]) / 6000 < 30  # bytes a file, where each name alone takes 85


@pytest.mark.case("R3")
def test_every_file_that_is_passed_over_is_counted_by_its_reason(tmp_path):
    root = tmp_path / "in"
    write(root, ["a.png", "b.png", "b.json", "alone.json", "notes.md", ".hidden.png", ".git/x", ".git/y/z"])
    (tmp_path / "other").mkdir()
    write(tmp_path / "other", ["c.png"])
    (root / "linked").symlink_to(tmp_path / "other")
    (root / "file-link.png").symlink_to(tmp_path / "other" / "c.png")
    (root / "broken.png").symlink_to(tmp_path / "none.png")
    os.mkfifo(root / "pipe.png")
    found = find_shards([str(root)])
    notes = {note.removeprefix(f"not read under {root}: ") for note in found.notes}
    assert notes == {
        "hidden file, 3: .git/x, .git/y/z, .hidden.png",
        "neither image nor shard, 2: alone.json, notes.md",
        "link to a folder, 1: linked",
        "broken link, 1: broken.png",
        "no regular file, 1: pipe.png",
    }
    assert {name for shard in found.shards for name in shard.files} == {"a.png", "b.png", "file-link.png"}


def test_a_folder_of_nothing_to_read_says_what_it_holds(tmp_path):
    write(tmp_path, ["x.raw", "y.raw", "z.ndpi"])
    with pytest.raises(
        ShardNotFound, match=r"neither image nor shard, 2: x\.raw, y\.raw; whole slide, .*--tile 256 --mpp 0\.5, 1: z"
    ):
        find_shards([str(tmp_path)])


@pytest.mark.case("R3")
def test_dicom_of_any_name_is_known_by_its_bytes(tmp_path):
    image = dicom(deep(8, 8))
    write(tmp_path / "in", ["a.IMA", "b.MR", "c.whatever", "1.2.3.4"], image)
    write(tmp_path / "in", ["d.IMA"], b"no DICOM" * 40)
    (tmp_path / "in" / "a.json").write_text('{"site": 3}')
    found = samples(tmp_path / "in")
    assert {key: (s.suffix, s.image == image) for key, s in found.items()} == {
        "a.IMA": ("dcm", True), "b.MR": ("dcm", True), "c.whatever": ("dcm", True), "1.2.3.4": ("", True),
    }  # fmt: skip
    assert found["a.IMA"].metadata == {"site": 3}
    assert find_shards([str(tmp_path / "in")]).notes == (
        f"not read under {tmp_path / 'in'}: neither image nor shard, 1: d.IMA",
    )
    in_tar = samples(write_tar(tmp_path / "s.tar", [("a.IMA", image), ("b.MR", image), ("b.json", b'{"n": 1}')]))
    assert {key: (s.suffix, s.metadata) for key, s in in_tar.items()} == {"a": ("dcm", {}), "b": ("dcm", {"n": 1})}


@pytest.mark.case("R5")
@pytest.mark.parametrize(
    ("image", "beside"),
    [("x.nii.gz", "x.json"), ("x.nii", "x.json"), ("a.b.png", "a.b.json"), ("1.2.840.7", "1.2.840.7.json"),
     ("IM0001", "IM0001.json"), ("X.PNG", "X.json")],
)  # fmt: skip
def test_the_json_beside_an_image_is_joined_by_the_rule_of_shards(tmp_path, image, beside):
    write(tmp_path / "in", [image], png(1))
    (tmp_path / "in" / beside).write_text(json.dumps({"age": 30}))
    (folder,) = samples(tmp_path / "in").values()
    (shard,) = samples(write_tar(tmp_path / "s.tar", [(image, png(1)), (beside, b'{"age": 30}')])).values()
    assert folder.metadata == shard.metadata == {"age": 30}
    assert find_shards([str(tmp_path / "in")]).notes == ()
