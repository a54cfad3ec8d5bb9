"""Shards in every compression, from files, programs and servers; compared with the programs that wrote them."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.server
import io
import lzma
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import pyarrow as pa
import pytest

from indexer.archive.reader import read_place, read_shard
from indexer.archive.shards import find_shards
from indexer.errors import CutShard, ReadError
from indexer.types import Place, Sample
from tests.archives import png, write_tar
from tests.commands import call

SKIPPABLE = (0x184D2A5E).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"a key"  # RFC 8878 section 3.1.2


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


def halves(compress, data: bytes, between: bytes = b"") -> bytes:
    """The content as two members, streams or frames, cut in the middle of a tar block."""
    cut = len(data) // 2 + 100
    return compress(data[:cut]) + between + compress(data[cut:])


KINDS = {
    "gz": ("tar.gz", gzip.compress),
    "gz of two members (RFC 1952 2.2)": ("tgz", partial(halves, gzip.compress)),
    "bz2 of two streams": ("tar.bz2", partial(halves, bz2.compress)),
    "xz of two streams and padding": ("tar.xz", partial(halves, lzma.compress, between=b"\0" * 8)),
    "zst": ("tar.zst", zstd),
    "zst of two frames": ("tar.zstd", partial(halves, zstd)),
    "zst after and between skippable frames": ("tzst", lambda data: SKIPPABLE + halves(zstd, data, SKIPPABLE)),
}


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Path:
    """A tar of pictures, a sparse one among them as GNU tar writes it, and their metadata."""
    folder = tmp_path_factory.mktemp("plain")
    members = [
        (f"{n}.{end}", data) for n in range(6) for end, data in (("png", png(n, 200)), ("json", b'{"n": %d}' % n))
    ]
    write_tar(folder / "s.tar", members)
    sparse = folder / "hole.tif"
    with sparse.open("wb") as file:
        file.write(b"II*\0" + b"x" * 4092)
        file.seek(1 << 20)
        file.write(b"the end" * 1000)
    subprocess.run(["tar", "-S", "-rf", "s.tar", "hole.tif"], cwd=folder, check=True)
    return folder / "s.tar"


def packed(plain: Path, folder: Path, kind: str) -> Path:
    ending, compress = KINDS[kind]
    path = folder / f"s.{ending}"
    path.write_bytes(compress(plain.read_bytes()))
    return path


def samples(address: object) -> list[Sample]:
    found = [s for shard in find_shards([str(address)]).shards for s in read_shard(shard)]
    assert all(isinstance(s, Sample) for s in found), found
    return found


def iter_into(got: list[Sample], samples):
    """Keep what came before the reader raised."""
    for sample in samples:
        got.append(sample)  # noqa: PERF402 - the reader raises before it ends
    return ()


def content(found: list[Sample]) -> list[tuple[object, ...]]:
    return [(s.key, s.suffix, s.image, s.member, s.offset, s.metadata) for s in found]


@pytest.fixture
def served(tmp_path):
    """The folder over http; gives its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.case("P5")
def test_a_shard_reads_the_same_in_every_compression_from_a_file_a_program_and_a_server(plain, tmp_path, served, kind):
    path = packed(plain, tmp_path, kind)
    expected = content(samples(plain))
    assert len(expected) == 7
    assert expected[-1][2].endswith(b"the end")
    for address in (path, f"pipe:cat {path}", f"{served}/{path.name}"):
        found = samples(address)
        assert content(found) == expected, address
        if str(address).startswith("pipe:"):
            continue
        for s in (found[0], found[5], *(found[6:] if address == path else ())):
            place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
            assert read_place(str(address), place, hashlib.sha256(s.image).hexdigest()) == s.image


def test_a_folder_of_shards_may_hold_every_compression(plain, tmp_path):
    for number, kind in enumerate(KINDS):
        (tmp_path / str(number)).mkdir()
        packed(plain, tmp_path / str(number), kind)
    assert [Path(s.name).parent.name for s in find_shards([str(tmp_path)]).shards] == [
        str(n) for n in range(len(KINDS))
    ]


@pytest.mark.parametrize("kind", ["gz", "zst", "zst of two frames", "xz of two streams and padding"])
@pytest.mark.parametrize("remote", [False, True])
def test_a_cut_or_damaged_compressed_shard_gives_whole_samples_and_is_not_done(plain, tmp_path, kind, remote):
    data = packed(plain, tmp_path, kind).read_bytes()
    half = data[: len(data) * 3 // 4]
    for changed in (half, half.ljust(len(data), b"\0")):
        (tmp_path / "cut").write_bytes(changed)
        address = f"pipe:cat {tmp_path}/cut" if remote else str(tmp_path / "cut")
        found = []
        (shard,) = find_shards([address]).shards
        with pytest.raises(CutShard):
            found.extend(iter_into(found, read_shard(shard)))
        assert found
        whole = {s.key: s.image for s in samples(plain)}
        assert all(isinstance(s, Sample) and whole[s.key] == s.image for s in found)


def test_a_program_that_fails_is_not_taken_for_a_damaged_shard(plain, tmp_path):
    path = packed(plain, tmp_path, "zst")
    (shard,) = find_shards([f"pipe:head -c 3000 {path}; exit 3"]).shards
    with pytest.raises(ReadError, match="exit code 3") as raised:
        list(read_shard(shard))
    assert not isinstance(raised.value, CutShard)


WIDE = {  # frames and streams that ask for more than 128 MiB of history before they give a byte
    "zst": b"\x28\xb5\x2f\xfd" + bytes([0, (31 - 10) << 3]) + b"\x01\x00\x00",  # RFC 8878 3.1.1.1.2: window 2^31
    "xz": lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30}]),
}


@pytest.mark.parametrize("kind", WIDE)
def test_a_window_that_would_fill_the_memory_is_refused_with_the_way_out(tmp_path, kind):
    (tmp_path / f"s.tar.{kind}").write_bytes(WIDE[kind])
    (shard,) = find_shards([str(tmp_path)]).shards
    with pytest.raises(ReadError, match=r"more than 128 MiB of history.*Compress it again"):
        list(read_shard(shard))


def test_a_shard_that_expands_a_thousandfold_is_read_in_flat_memory(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for number in range(40):
            header = tarfile.TarInfo(f"{number}.png")
            header.size = 10 << 20
            archive.addfile(header, io.BytesIO(bytes(header.size)))
    (tmp_path / "s.tar.zst").write_bytes(zstd(buffer.getvalue()))
    code = (
        "import sys\n"
        "from tests.memory import most_resident\n"
        "from indexer.archive.reader import read_shard\n"
        "from indexer.archive.shards import find_shards\n"
        "(shard,) = find_shards([sys.argv[1]]).shards\n"
        "import pyarrow\n"
        "before = most_resident()\n"
        "print(sum(len(s.image) for s in read_shard(shard)))\n"
        "print(most_resident() - before)\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "s.tar.zst")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    nbytes, grown = map(int, done.stdout.split())
    assert nbytes == 40 * (10 << 20)
    assert 10 << 20 <= grown < 100 << 20  # a few members of 10 MiB, not 400 MiB


def test_what_the_zstd_program_writes_is_indexed_searched_and_checked(plain, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "s.tar.zst").write_bytes(zstd(plain.read_bytes()))
    done = call("indexer", "index", tmp_path / "s.tar.zst", tmp_path / "db", "--json", "--workers", 1)
    assert done.code == 0, done.err
    assert (done.json["embedded"], done.json["failed"]) == (6, 1)  # the sparse file is no TIFF
    page = tmp_path / "page.html"
    assert call("indexer", "search", tmp_path / "db", "--key", "3", "-k", 2, "--html", page).code == 0
    assert page.read_text().count("data:image") == 3
    again = call("indexer", "failures", tmp_path / "db", "--retry", "--json")
    assert again.json["shards_partial"] == 0
    assert again.json["failed"] == 1
    told = call("indexer", "doctor", tmp_path / "s.tar.zst", "--json")
    assert told.code == 0, told.err
