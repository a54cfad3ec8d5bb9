"""What is attacked: a door of the package, inputs for it, and what it may answer.

A target takes inputs and returns one word for each: what became of it. IndexerError is an answer; anything else that
is raised, dies, hangs or writes elsewhere is a fault.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import hashlib
import io
import json
import lzma
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.errors import IndexerError
from indexer.types import PixelSpec, Place, Sample, Shard
from tests.archives import png
from tests.fuzz.dicom_files import dicom_files
from tests.fuzz.dicom_truth import dicom_attack
from tests.fuzz.label_files import label_attack, label_files
from tests.fuzz.mutators import json_mutated, names, sql, tar_mutated
from tests.fuzz.tar_archives import tar_archives
from tests.fuzz.tar_truth import tar_attack
from tests.fuzz.tiff_files import tiff_attack, tiff_files
from tests.mutations import mutated
from tests.pictures import deep, dicom, dicom_file, encoded, scene
from tests.sources import as_npz, as_parquet, as_zip

GENERATION = b"GENERATION"  # stands in the inputs for the name that an index directory gives its files
SPEC = PixelSpec(32, 32)
Attack = Callable[[Sequence[bytes]], list[str]]


@dataclass(frozen=True)
class Target:
    """`prepare` makes what is attacked in a folder of its own; `inputs` gives (count, seed) → bytes."""

    prepare: Callable[[Path], Attack]
    inputs: Callable[[int, int], Iterable[bytes]]
    share: float  # of all inputs
    batch: int = 1  # inputs that are tried together; one that is a fault is found by trying them alone


def word(attack: Callable[[], object]) -> str:
    try:
        answer = attack()
    except IndexerError as error:
        return type(error).__name__
    return str(answer)


def _damaged(seeds: Callable[[], Sequence[bytes]]) -> Callable[[int, int], Iterator[bytes]]:
    def inputs(count: int, seed: int) -> Iterator[bytes]:
        for _, data in mutated(seeds(), count, seed):
            yield data

    return inputs


def _pixels(suffix: str) -> Callable[[Path], Attack]:
    def prepare(folder: Path) -> Attack:
        from indexer.pixels import decode

        def shapes(data: bytes) -> str:
            found = {picture.pixels.shape for picture in decode(data, suffix, SPEC)}
            assert found <= {(32, 32, 3)}, found
            return "pictures"

        return lambda batch: [word(lambda d=data: shapes(d)) for data in batch]

    return prepare


def _jpegs() -> list[bytes]:
    colour = scene(48, 64)
    return [encoded(colour, "JPEG"), encoded(colour, "JPEG", progressive=True), encoded(colour[..., 0], "JPEG")]


def _pngs() -> list[bytes]:
    colour, grey = scene(48, 64), deep(40, 50)
    return [encoded(colour, "PNG"), encoded(grey, "PNG"), encoded(colour[..., 0], "PNG")]


def _dicoms() -> list[bytes]:
    files = ("CT_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm")
    return [dicom(deep(40, 50)), *map(dicom_file, files)]


def _tars() -> list[bytes]:
    """As GNU, pax and old tars, with long names, links and folders; two of them compressed."""
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=form) as archive:
            for name, data in (
                ("a.png", png(1, 8)),
                ("a.json", b'{"n": 1}'),
                ("d/" * 40 + "b.png", png(2, 8)),
                ("c.txt", b"t"),
            ):
                header = tarfile.TarInfo(name)
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
            for kind in (tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE):
                header = tarfile.TarInfo("odd")
                header.type, header.linkname = kind, "/etc/passwd"
                archive.addfile(header)
        found.append(file.getvalue())
    return [*found, gzip.compress(found[0], mtime=0), *_other_compressions(found[1])]


def _other_compressions(data: bytes) -> list[bytes]:
    return [bz2.compress(data), lzma.compress(data)]


def _tar(folder: Path) -> Attack:
    from indexer.archive.reader import read_shard

    path = folder / "shard.tar"

    def read(data: bytes) -> str:
        path.write_bytes(data)
        items = list(read_shard(Shard(str(path), str(path), "1")))
        return "samples" if any(isinstance(item, Sample) for item in items) else "failures"

    return lambda batch: [word(lambda d=data: read(d)) for data in batch]


def _source(suffix: str) -> Callable[[Path], Attack]:
    """A source named by its suffix: found, read whole, and its first image read back."""

    def prepare(folder: Path) -> Attack:
        from indexer.archive.reader import read_place, read_shard
        from indexer.archive.shards import find_shards

        path = folder / f"s.{suffix}"

        def read(data: bytes) -> str:
            path.write_bytes(data)
            for shard in find_shards([str(path)]).shards:
                samples = [item for item in read_shard(shard) if isinstance(item, Sample)]
                for s in samples[:1]:
                    place = Place(s.shard, s.member, s.offset, s.nbytes, s.suffix)
                    assert read_place(shard.url, place, hashlib.sha256(s.image).hexdigest()) == s.image
                return "samples" if samples else "failures"
            return "nothing"

        return lambda batch: [word(lambda d=data: read(d)) for data in batch]

    return prepare


def _sources(make: Callable[[Path, int], Path]) -> Callable[[], Sequence[bytes]]:
    @functools.cache
    def seeds() -> Sequence[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            return [make(Path(folder) / f"s.{i}.npz", i).read_bytes() for i in (1, 5)]

    return seeds


def _parquet(path: Path, n: int) -> Path:
    return as_parquet(path, n, "struct" if n == 1 else "bytes", compression="snappy" if n == 1 else None)


def _indexed(folder: Path) -> Callable[[list[tuple[bytes, bytes]], int], str]:
    """Index members as one shard into a fresh table each hundred shards; rows and failures must add up."""
    from indexer.archive.reader import read_place
    from indexer.pipeline.options import RunOptions
    from indexer.pipeline.run import index
    from indexer.store.rows import PLACE_COLUMNS, place_of
    from indexer.store.table import EmbeddingStore
    from tests.fakes import FakeEncoder

    encoder, number = FakeEncoder(), [0]

    def run(members: list[tuple[bytes, bytes]], images: int) -> str:
        number[0] += 1
        path = folder / f"{number[0]}.tar"
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=tarfile.GNU_FORMAT) as archive:
            for name, data in members:
                header = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
                header.size = len(data)
                archive.addfile(header, io.BytesIO(data))
        path.write_bytes(file.getvalue())
        store = EmbeddingStore.create(str(folder / f"db{number[0] // 100}"), "t", encoder.spec)
        shard = Shard(str(path), str(path), "1")
        report = index([shard], store, encoder, RunOptions(max_failures=1.0))
        assert report.images == report.embedded + report.failed
        assert images <= report.images or report.shards_partial, (images, report)
        store.refresh()
        columns = [*PLACE_COLUMNS, "key", "content"]
        rows = [row for b in store.scan(columns, f"shard = '{path}'") for row in b.to_pylist()]
        assert len(rows) == report.embedded
        for row in rows:
            place = place_of(row)
            assert read_place(str(path), place, row["content"])[:4] == b"\x89PNG"
        return "rows" if rows else "failures"

    return run


def _metadata(folder: Path) -> Attack:
    run = _indexed(folder)

    def attack(batch: Sequence[bytes]) -> list[str]:
        picture = png(1, 8)
        members = [m for i, data in enumerate(batch) for m in ((b"%d.png" % i, picture), (b"%d.json" % i, data))]
        # the keys of another shard must not be taken again: a folder of the shard's own
        attack_number[0] += 1
        prefix = b"%d/" % attack_number[0]
        return [word(lambda: run([(prefix + name, data) for name, data in members], len(batch)))] * len(batch)

    attack_number = [0]
    return attack


def _member_names(folder: Path) -> Attack:
    run = _indexed(folder)

    def attack(batch: Sequence[bytes]) -> list[str]:
        return [word(lambda: run([(name or b"x", png(1, 8)) for name in batch], 0))] * len(batch)

    return attack


def _manifest(folder: Path) -> Attack:
    from indexer.ann.index import load
    from indexer.ann.manifest import NAME

    directory = _index_directory(folder)
    generation = json.loads((directory / NAME).read_bytes())["generation"].encode()
    query = np.ones((1, 8), np.float32) / np.sqrt(8, dtype=np.float32)

    def read(data: bytes) -> str:
        (directory / NAME).write_bytes(data.replace(GENERATION, generation))
        index = load(directory)
        if index is None:
            return "none"
        scores, ids = index.search(query, 5)
        assert scores.shape == ids.shape == (1, 5)
        return "searched"

    return lambda batch: [word(lambda d=data: read(d)) for data in batch]


def _index_directory(folder: Path) -> Path:
    from indexer.ann.goal import Goal
    from indexer.search.index_build import build_index
    from tests.tables import make_table, unit_rows

    if not (folder / "t.faiss").exists():
        build_index(make_table(folder, unit_rows(200, 8)), Goal(kind="ivf-fp16"))
    return folder / "t.faiss"


def _manifests(count: int, seed: int) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        text = (_index_directory(Path(folder)) / "manifest.json").read_bytes()
    generation = json.loads(text)["generation"].encode()
    return json_mutated([text.replace(generation, GENERATION)], count, seed)


def _where(folder: Path) -> Attack:
    from tests.tables import make_table, unit_rows

    facts = [{"sex": "FM"[i % 2], "age": i, "n": i * 0.5} for i in range(50)]
    store = make_table(folder, unit_rows(50, 8), facts)

    def ask(data: bytes) -> str:
        where = data.decode("utf-8", "surrogateescape")
        found = store.count(where)
        rows = [row for b in store.scan(["key"], where) for row in b.to_pylist()]
        assert found == len(rows) <= 50
        return "some" if 0 < found < 50 else "all or none"

    def attack(batch: Sequence[bytes]) -> list[str]:
        words = [word(lambda d=data: ask(d)) for data in batch]
        store.refresh()
        assert store.count() == 50
        return words

    return attack


def _bundle(folder: Path) -> Path:
    """A fitted probe, made by the command itself."""
    from tests.commands import call
    from tests.tables import make_table, unit_rows

    target = folder / "bundle"
    if not target.exists():
        facts = [{"sex": "FM"[i % 2], "patient": f"p{i // 2}"} for i in range(120)]
        make_table(folder / "db", unit_rows(120, 8), facts)
        done = call("probes", "linear", folder / "db", "--label", "sex", "--group", "patient", "--out", target)
        assert done.code == 0, done.err
    return target


def _probe_file(name: str) -> Callable[[Path], Attack]:
    def prepare(folder: Path) -> Attack:
        from probes.runs.bundle import read_bundle
        from probes.runs.predict import score_rows
        from tests.tables import unit_rows

        target, rows = _bundle(folder), unit_rows(5, 8)
        whole = (target / name).read_bytes()

        def read(data: bytes) -> str:
            (target / name).write_bytes(data)
            score_rows(read_bundle(target), rows)
            return "scored"

        def attack(batch: Sequence[bytes]) -> list[str]:
            try:
                return [word(lambda d=data: read(d)) for data in batch]
            finally:
                (target / name).write_bytes(whole)

        return attack

    return prepare


@functools.cache
def _made(name: str) -> bytes:

    with tempfile.TemporaryDirectory() as folder:
        return (_bundle(Path(folder)) / name).read_bytes()


METADATA = [
    json.dumps({"sex": "F", "age": 61, "weight": 70.5, "contrast": True, "tags": ["a"], "note": None}).encode(),
    json.dumps({"patient": "p1", "study": {"date": "20240101"}, "sex": "M", "age": 3}).encode(),
]
TARGETS = {
    "tar": Target(_tar, lambda n, seed: tar_mutated(_tars(), n, seed), 0.1),
    "zip": Target(_source("zip"), _damaged(_sources(as_zip)), 0.03),
    "parquet": Target(_source("parquet"), _damaged(_sources(_parquet)), 0.03),
    "npz": Target(_source("npz"), _damaged(_sources(as_npz)), 0.015),
    "json": Target(_metadata, lambda n, seed: json_mutated(METADATA, n, seed), 0.07, batch=25),
    "jpeg": Target(_pixels("jpg"), _damaged(_jpegs), 0.09),
    "png": Target(_pixels("png"), _damaged(_pngs), 0.09),
    "dicom": Target(_pixels("dcm"), _damaged(_dicoms), 0.08),
    "manifest": Target(_manifest, _manifests, 0.06),
    "probe": Target(_probe_file("probe.json"), lambda n, seed: json_mutated([_made("probe.json")], n, seed), 0.035),
    "weights": Target(_probe_file("weights.npz"), _damaged(lambda: [_made("weights.npz")]), 0.02),
    "where": Target(_where, sql, 0.06),
    "names": Target(_member_names, names, 0.06, batch=25),
    # compared with independent readers: an answer that is not theirs, and has no flag, is a fault too
    "tiff": Target(tiff_attack, tiff_files, 0.08),
    "headers": Target(dicom_attack, dicom_files, 0.08),
    "archives": Target(tar_attack, tar_archives, 0.06),
    "labels": Target(label_attack, label_files, 0.04),
}
