"""Shards and reader: what the user names, what is read, and what is named as unread."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile

import pytest

from indexer.archive.reader import read_place, read_shard
from indexer.archive.samples import split_name
from indexer.archive.shards import find_shards
from indexer.errors import CutShard, InputError, NotATar, ReadError, ShardNotFound
from indexer.types import Failure, Place, Sample


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def read(path):
    (shard,) = find_shards([str(path)]).shards
    return list(read_shard(shard))


@pytest.mark.parametrize(
    ("name", "key", "suffix"),
    [
        ("a.jpg", "a", "jpg"),
        ("x/1.2.840.1.dcm", "x/1.2.840.1", "dcm"),
        ("1.2.840.113619.2", "1.2.840.113619.2", ""),
        ("IM000001", "IM000001", ""),
        ("a.seg.PNG", "a.seg", "png"),
        ("a.json", "a", "json"),
        ("v.nii.gz", "v", "nii.gz"),
        ("dir.v1/im", "dir.v1/im", ""),
    ],
)
def test_a_member_name_is_cut_at_the_last_dot_before_a_known_suffix(name, key, suffix):
    assert split_name(name) == (key, suffix)


def test_uid_named_files_stay_separate_samples(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("1.2.840.1.dcm", b"a"), ("1.2.840.2.dcm", b"b")])
    assert [s.key for s in read(path)] == ["1.2.840.1", "1.2.840.2"]


def test_members_of_one_stem_form_one_sample_with_its_metadata(tmp_path):
    members = [("a.jpg", b"img"), ("a.json", b'{"sex": "F"}'), ("a.txt", b"a cat\n"), ("a.cls", b"3")]
    (sample,) = read(write_tar(tmp_path / "s.tar", members))
    assert (sample.image, sample.metadata) == (b"img", {"sex": "F", "txt": "a cat", "cls": 3})


def test_the_place_of_an_image_gives_its_bytes_back(tmp_path):
    long = "d/" * 60 + "été-画像.jpg"
    members = [("a.json", b"{}"), ("a.jpg", b"x" * 700), (long, b"second")]
    path = write_tar(tmp_path / "s.tar", members)
    samples = read(path)
    assert len(samples) == 2
    for sample in samples:
        place = Place(sample.shard, sample.member, sample.offset, sample.nbytes, sample.suffix)
        assert read_place(str(path), place, sha256(sample.image)) == sample.image
        assert path.read_bytes()[sample.offset : sample.offset + sample.nbytes] == sample.image


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_shard_reads_like_a_plain_one(tmp_path, mode):
    path = write_tar(tmp_path / "s.tar.gz", [("a.jpg", b"x" * 700), ("b.jpg", b"y")], mode)
    samples = read(path)
    assert [s.image for s in samples] == [b"x" * 700, b"y"]
    last = samples[1]
    assert read_place(str(path), Place(last.shard, last.member, last.offset, last.nbytes, "jpg"), sha256(b"y")) == b"y"


@pytest.mark.parametrize("cut", [512 + 100, 1024 + 300, 1536, 2048, 2048 + 512 + 100])
def test_cut_shard_yields_only_whole_samples(tmp_path, cut):
    whole = write_tar(tmp_path / "w.tar", [("a.jpg", b"a"), ("a.json", b"{}"), ("b.jpg", b"b"), ("b.json", b"{}")])
    path = tmp_path / "s.tar"
    path.write_bytes(whole.read_bytes()[:cut])
    got = []
    (shard,) = find_shards([str(path)]).shards
    with pytest.raises(CutShard):
        got.extend(iter_into(got, read_shard(shard)))
    assert all(s.image and s.member.endswith("jpg") for s in got)
    assert [s.key for s in got] == (["a"] if cut > 2048 else [])


def iter_into(got, stream):
    for item in stream:
        got.append(item)
    return []


def test_a_damaged_header_in_the_middle_is_not_taken_for_the_end(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("a.jpg", b"a"), ("b.jpg", b"b"), ("c.jpg", b"c")])
    data = bytearray(path.read_bytes())
    data[1024:1100] = b"\xff" * 76
    path.write_bytes(data)
    (shard,) = find_shards([str(path)]).shards
    with pytest.raises(CutShard):
        list(read_shard(shard))


@pytest.mark.parametrize("header", [{"GNU.sparse.size": "x"}, {"GNU.sparse.map": "0,x"}])
def test_a_number_in_an_extended_header_that_is_none_breaks_the_shard_off(tmp_path, header):
    with tarfile.open(tmp_path / "s.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for name, extended in [("a.png", {}), ("b.png", header), ("c.png", {})]:
            member = tarfile.TarInfo(name)
            member.size, member.pax_headers = 1, extended
            archive.addfile(member, io.BytesIO(b"x"))
    stream = read_shard(find_shards([str(tmp_path / "s.tar")]).shards[0])
    with pytest.raises(CutShard, match="breaks off"):
        list(stream)


@pytest.mark.parametrize("content", [b"", b"not a tar at all" * 200, b"\xff\xd8\xff\xe0" + b"j" * 5000])
def test_what_is_no_archive_says_so(tmp_path, content):
    path = tmp_path / "s.tar"
    path.write_bytes(content)
    with pytest.raises(NotATar, match=r"s\.tar"):
        read(path)


def test_an_archive_of_zeros_holds_nothing(tmp_path):
    path = tmp_path / "s.tar"
    path.write_bytes(b"\0" * 10240)
    assert read(path) == []


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("a.json", b"{}")], "no image in sample"),
        ([("a.jpg", b"x"), ("a.json", b"{")], "bad metadata"),
        ([("a.jpg", b"x"), ("a.json", b"[1]")], "bad metadata"),
        ([("a.jpg", b"")], "empty file"),
    ],
)
def test_a_sample_that_cannot_be_used_is_named_with_its_reason(tmp_path, members, reason):
    (failure,) = read(write_tar(tmp_path / "s.tar", members))
    assert isinstance(failure, Failure)
    assert (failure.stage, failure.reason) == ("read", reason)


def test_a_second_image_of_one_sample_is_named_and_the_first_is_read(tmp_path):
    sample, failure = read(write_tar(tmp_path / "s.tar", [("a.jpg", b"1"), ("a.png", b"2")]))
    assert isinstance(sample, Sample)
    assert sample.image == b"1"
    assert failure.reason == "second image in one sample"
    assert failure.member == "a.png"


def test_files_of_one_basename_in_two_folders_stay_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "s.tar", [("x.jpg", folder.encode())])
    shards = find_shards([str(tmp_path / "*" / "s.tar")]).shards
    assert len({s.name for s in shards}) == 2


def test_a_folder_of_images_is_read_as_it_is(tmp_path):
    for name in ("cats/a.png", "cats/a.jpg", "dogs/b.png", "dogs/b.json", "notes.md", ".hidden/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(json.dumps({"age": 3}).encode() if name.endswith("json") else b"bytes")
    found = find_shards([str(tmp_path)])
    samples = [s for shard in found.shards for s in read_shard(shard)]
    assert {s.key for s in samples} == {"cats/a.png", "cats/a.jpg", "dogs/b.png"}
    assert {s.key: s.metadata for s in samples}["dogs/b.png"] == {"age": 3, "folder": "dogs"}
    assert found.notes == (
        f"not read under {tmp_path}: hidden file, 1: .hidden/c.png",
        f"not read under {tmp_path}: neither image nor shard, 1: notes.md",
    )
    (urls,) = {s.url for s in found.shards}
    for s in samples:
        assert read_place(urls, Place(s.shard, s.member, s.offset, s.nbytes, s.suffix), sha256(b"bytes")) == b"bytes"


def test_of_many_files_that_are_not_read_the_first_are_named(tmp_path):
    for name in ("a.png", *(f"t{n}.csv" for n in range(9))):
        (tmp_path / name).write_bytes(b"bytes")
    (note,) = find_shards([str(tmp_path)]).notes
    assert note.endswith("neither image nor shard, 9: t0.csv, t1.csv, t2.csv and 6 more")


def test_a_file_added_to_a_folder_changes_no_other_files_shard(tmp_path):
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(b"x")
    before = {f: s for s in find_shards([str(tmp_path)]).shards for f in s.files}
    (tmp_path / "new.png").write_bytes(b"x")
    after = {f: s for s in find_shards([str(tmp_path)]).shards for f in s.files}
    assert {f: s.name for f, s in before.items()} == {f: s.name for f, s in after.items() if f != "new.png"}
    assert sum(before[f].identity != after[f].identity for f in before) < 10


def test_braces_globs_and_pipes_name_shards_in_order(tmp_path):
    for i in range(3):
        write_tar(tmp_path / f"s{i}.tar", [(f"{i}.jpg", b"x")])
    braces = find_shards([str(tmp_path / "s{0..2}.tar")]).shards
    assert [s.url for s in braces] == [str(tmp_path / f"s{i}.tar") for i in range(3)]
    assert find_shards([str(tmp_path)]).shards == braces
    (pipe,) = find_shards([f"pipe:cat {tmp_path}/s1.tar"]).shards
    (sample,) = read_shard(pipe)
    assert sample.key == "1"
    with pytest.raises(ReadError, match="a command that a table names is never run"):
        read_place(pipe.url, Place(pipe.name, sample.member, sample.offset, 1, "jpg"), sha256(b"x"))


def test_what_cannot_be_found_says_where_it_was_sought(tmp_path):
    (tmp_path / "x.png").write_bytes(b"x")
    for source, error in [
        (str(tmp_path / "none.tar"), ShardNotFound),
        (str(tmp_path / "*.tar"), ShardNotFound),
        (str(tmp_path / "x.png"), InputError),
        (str(tmp_path / "s{0..2.tar"), InputError),
    ]:
        with pytest.raises(error, match=r"none\.tar|\*\.tar|x\.png|s\{0"):
            find_shards([source])


@pytest.mark.case("R1")
def test_of_two_samples_of_one_key_each_keeps_its_own_metadata(tmp_path):
    members = [("x.png", b"1"), ("x.json", b'{"l": "first"}'), ("x.png", b"2"), ("x.json", b'{"l": "second"}')]
    found = read(write_tar(tmp_path / "s.tar", members))
    assert [(s.key, s.image, s.metadata) for s in found] == [("x", b"1", {"l": "first"}), ("x", b"2", {"l": "second"})]


@pytest.mark.case("R2")
def test_links_of_a_tar_are_samples_of_their_own_with_the_bytes_they_lead_to(tmp_path):
    root = tmp_path / "in"
    (root / "sub").mkdir(parents=True)
    for name in "ad":
        (root / f"{name}.jpg").write_bytes(name.encode() * 700)
    (root / "b.jpg").hardlink_to(root / "a.jpg")
    (root / "c.jpg").symlink_to("d.jpg")  # which stands behind it in the archive
    (root / "sub" / "e.jpg").symlink_to("../c.jpg")
    (root / "f.jpg").symlink_to("/etc/hostname")
    (root / "g.jpg").symlink_to("g.jpg")
    (root / "h.jpg").symlink_to("gone.jpg")
    path = tmp_path / "t.tar"
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "sub", "f.jpg", "g.jpg", "h.jpg"]
    subprocess.run(["tar", "cf", str(path), "-C", str(root), *names], check=True)
    found = read(path)
    samples = {f.key: f for f in found if isinstance(f, Sample)}
    assert {key: s.image for key, s in samples.items()} == {
        "a": b"a" * 700, "b": b"a" * 700, "c": b"d" * 700, "d": b"d" * 700, "sub/e": b"d" * 700,
    }  # fmt: skip
    for s in samples.values():
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert read_place(str(path), place, sha256(s.image)) == s.image
    failed = [(f.key, f.reason) for f in found if isinstance(f, Failure)]
    assert failed == [(key, "link leads to no file") for key in "fgh"]
    packed = tmp_path / "t.tar.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    found = read(packed)
    assert [f.key for f in found if isinstance(f, Sample)] == ["a", "d"]
    assert [f.key for f in found if isinstance(f, Failure)] == ["b", "c", "sub/e", "f", "g", "h"]


@pytest.mark.case("R6")
def test_a_sparse_member_is_read_back_as_it_was_embedded(tmp_path):
    file = tmp_path / "hole.jpg"
    with file.open("wb") as out:
        out.write(b"begin")
        out.seek(1 << 20)
        out.write(b"end")
    (tmp_path / "after.jpg").write_bytes(b"after")
    path = tmp_path / "s.tar"
    subprocess.run(["tar", "cSf", str(path), "-C", str(tmp_path), "hole.jpg", "after.jpg"], check=True)
    assert path.stat().st_size < 1 << 19  # it is stored sparse indeed
    for s, image in zip(read(path), (file.read_bytes(), b"after"), strict=True):
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert s.image == image == read_place(str(path), place, sha256(image))


@pytest.mark.case("R6")
def test_an_image_whose_bytes_changed_is_not_read_back_as_if_it_were_the_one_indexed(tmp_path):
    path = write_tar(tmp_path / "s.tar", [("a.jpg", b"old")])
    (sample,) = read(path)
    write_tar(path, [("a.jpg", b"new")])
    place = Place(sample.shard, sample.member, sample.offset, sample.nbytes, sample.suffix)
    with pytest.raises(ReadError, match="no longer the image that was indexed"):
        read_place(str(path), place, sha256(b"old"))


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def header_of(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = ""
) -> tuple[tarfile.TarInfo, bytes]:
    header = tarfile.TarInfo(name)
    header.size, header.type, header.linkname = len(data), kind, link
    return header, data


@pytest.mark.case("R2")
def test_of_a_name_that_stands_in_a_tar_twice_a_link_leads_to_the_file_that_unpacking_gives(tmp_path):
    first, second = b"first" * 9, b"second" * 9
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for header, data in (
            header_of("a.jpg", first),
            header_of("b.jpg", kind=tarfile.LNKTYPE, link="a.jpg"),  # a hard link: of what is there by then
            header_of("c.jpg", kind=tarfile.SYMTYPE, link="a.jpg"),  # a symbolic link: to what is there in the end
            header_of("a.jpg", second),
            header_of("d.jpg", kind=tarfile.LNKTYPE, link="a.jpg"),
        ):
            archive.addfile(header, io.BytesIO(data))
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    subprocess.run(["tar", "xf", str(path), "-C", str(unpacked)], check=True)
    found = {s.member: s for s in read(path)}
    assert {name: found[name].image for name in ["b.jpg", "c.jpg", "d.jpg"]} == {
        "b.jpg": first, "c.jpg": second, "d.jpg": second,
    }  # fmt: skip
    for name, s in found.items():
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert s.image == (unpacked / name).read_bytes() == read_place(str(path), place, sha256(s.image))


@pytest.mark.case("R6")
def test_sparse_members_of_one_name_and_links_to_them_are_each_read_back_as_embedded(tmp_path):
    path = tmp_path / "s.tar"
    contents = []
    for number, word in enumerate((b"one", b"two")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with (folder / "hole.jpg").open("wb") as out:
            out.seek(1 << 20)
            out.write(word)
        (folder / "link.jpg").hardlink_to(folder / "hole.jpg")
        subprocess.run(["tar", "rSf", str(path), "-C", str(folder), "hole.jpg", "link.jpg"], check=True)
        contents += [(folder / "hole.jpg").read_bytes()] * 2
    samples = read(path)
    assert [s.image for s in samples] == contents
    for s in samples:
        place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
        assert read_place(str(path), place, sha256(s.image)) == s.image
    older = Place(str(path), "hole.jpg", -1, len(contents[0]), "jpg")  # as tables of version 0.2 have it
    assert read_place(str(path), older, sha256(contents[0])) == contents[0]
