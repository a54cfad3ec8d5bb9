"""The life of a table, command by command; its state as a record; and what is lost, doubled or altered in another."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from tests.faults.material import Material
from tests.faults.runs import Arm, Kind, Run, Zygote

ENCODER = ("--encoder", "timm:test_efficientnet", "--weights", "random", "--table", "t")
Row = tuple[tuple[str, Any], ...]  # (column, value), sorted
FROM_RUN = ("table_version", "finished_at")  # ledger columns that differ between any two runs


@dataclass(frozen=True)
class Place:
    """Where one life goes on."""

    root: Path
    commit_rows: int = 1  # a commit for each shard: many moments to be killed in

    @property
    def material(self) -> Material:
        return Material(self.root / "material")

    @property
    def db(self) -> Path:
        return self.root / "work" / "db"

    @property
    def packed(self) -> Path:
        return self.root / "work" / "packed"

    @property
    def work(self) -> Path:
        """Everything that the commands write lies below it."""
        return self.root / "work"

    @classmethod
    def make(cls, root: Path, material: Material, commit_rows: int = 1) -> Place:
        place = cls(root, commit_rows)
        (root / "work").mkdir(parents=True)
        material.copy(root / "material")
        return place


@dataclass(frozen=True)
class Step:
    """One command of a life, and what changes on the disk before it."""

    name: str
    argv: Callable[[Place], Sequence[object]]
    before: Callable[[Place], None] = lambda _: None


def index(*sources: object, place: Place) -> list[object]:
    return ["index", *sources, place.db, *ENCODER, "--commit-rows", place.commit_rows]


STEPS = (
    Step(
        "pack",
        lambda p: [
            "pack",
            p.material.images,
            p.packed,
            "--shard-files",
            4,
            "--secret",
            p.root / "secret",
            "--new-secret",
        ],
    ),
    Step("index", lambda p: index(p.packed, *p.material.early(), place=p)),
    Step("labels", lambda p: ["labels", p.db, p.material.root / "labels.csv"]),
    Step("build-ann", lambda p: ["build-ann", p.db, "--kind", "ivf-sq8"]),
    Step(
        "index again",
        lambda p: [*index(p.packed, p.material.shards, place=p), "--changed", "replace"],
        lambda p: p.material.replace(),
    ),
    Step("failures --retry", lambda p: ["failures", p.db, "--retry"], lambda p: p.material.mend()),
    Step("labels again", lambda p: ["labels", p.db, p.material.root / "labels2.csv"]),
    Step("build-ann --refresh", lambda p: ["build-ann", p.db, "--refresh"]),
    Step("optimize", lambda p: ["optimize", p.db]),
)


@dataclass(frozen=True)
class State:
    """Everything that must not depend on what happened on the way."""

    rows: dict[str, list[Row]]  # key → each row with this key, its vector bit for bit
    ledger: dict[str, list[Row]]
    failures: Counter[Row]
    packed: dict[str, str]  # file → sha256
    indexed: Counter[str]  # keys in the FAISS index's own files


@dataclass
class Verdict:
    """What differs from the undisturbed life."""

    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.lost or self.doubled or self.altered)

    def __str__(self) -> str:
        parts = [(name, getattr(self, name)) for name in ("lost", "doubled", "altered")]
        return "; ".join(f"{len(found)} {name}: {', '.join(found[:3])}" for name, found in parts if found)


def live(zygote: Zygote, place: Place, kinds: int = Kind.ALL, steps: Sequence[Step] = STEPS) -> list[Run]:
    """An undisturbed life, each run with its calls of these kinds counted."""
    runs = []
    for step in steps:
        step.before(place)
        runs.append(zygote.run(*step.argv(place), arm=Arm(place.work, kinds)))
        if troubled(runs[-1]):
            raise RuntimeError(f"{step.name} failed undisturbed: {runs[-1].err}")
    return runs


def troubled(run: Run) -> bool:
    """Ended with an error of ours, or worse. (A cut shard is exit code 1 too, without one.)"""
    return run.code not in (0, 1) or "error:" in run.err or "Traceback" in run.err


def state(place: Place) -> State:
    """Read with Lance alone, not with the code under test."""
    files = sorted(p for p in place.packed.rglob("*") if p.is_file() and p.suffix != ".json" and p.name != "lock")
    return State(
        _by("key", _rows(place, "t")),
        _by("shard", _rows(place, "t.shards")),
        Counter(_rows(place, "t.failures")),
        {str(p.relative_to(place.packed)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files},
        _indexed(place.db / "t.faiss"),
    )


def _by(column: str, rows: Sequence[Row]) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(dict(row)[column], []).append(row)
    return found


def _rows(place: Place, table: str) -> list[Row]:
    """All columns that do not differ between any two runs; paths below the place alone."""
    path = place.db / f"{table}.lance"
    if not list(path.glob("_versions/*.manifest")):
        return []
    rows = []
    for row in lance.dataset(str(path)).to_table().to_pylist():
        if "vector" in row:
            row["vector"] = np.array(row["vector"], np.float16).tobytes().hex()
        if str(row.get("url", "")).startswith(str(place.packed)):
            row["identity"] = "packed in this life"  # its time of change is its own
        kept = sorted((name, value) for name, value in row.items() if name not in FROM_RUN)
        rows.append(tuple((n, v.replace(str(place.root), "") if isinstance(v, str) else v) for n, v in kept))
    return rows


def _indexed(directory: Path) -> Counter[str]:
    if not (directory / "manifest.json").exists():
        return Counter()
    facts = json.loads((directory / "manifest.json").read_text())
    with pa.OSFile(str(directory / facts["files"]["keys"]["name"])) as file:
        return Counter(pa.ipc.open_file(file).read_all().column(0).to_pylist())


def compare(found: State, truth: State) -> Verdict:
    """What `found` lacks, has twice, or has otherwise."""
    verdict = Verdict()
    for kind, ours, theirs in (("row", found.rows, truth.rows), ("ledger", found.ledger, truth.ledger)):
        for key in sorted({*ours, *theirs}):
            mine, right = ours.get(key, []), theirs.get(key, [])
            if len(mine) < len(right):
                verdict.lost.append(f"{kind} {key}")
            elif len(mine) > len(right):
                verdict.doubled.append(f"{kind} {key}")
            elif repr(sorted(mine, key=repr)) != repr(sorted(right, key=repr)):  # NaN equals itself here
                verdict.altered.append(f"{kind} {key}: {_difference(mine, right)}")
    for kind, counted, right in (
        ("failure", found.failures, truth.failures),
        ("indexed", found.indexed, truth.indexed),
    ):
        verdict.lost += [f"{kind} {item}" for item in (right - counted)]
        verdict.doubled += [f"{kind} {item}" for item in (counted - right)]
    for name in sorted({*found.packed, *truth.packed}):
        if found.packed.get(name) != truth.packed.get(name):
            verdict.altered.append(f"packed {name}")
    return verdict


def _difference(mine: list[Row], right: list[Row]) -> str:
    ours, theirs = dict(mine[0]), dict(right[0])
    wrong = [n for n in sorted({*ours, *theirs}) if repr(ours.get(n)) != repr(theirs.get(n))]
    return ", ".join(f"{n} {str(ours.get(n))[:40]} for {str(theirs.get(n))[:40]}" for n in wrong[:3])


def unsound(place: Place) -> list[str]:
    """What no moment may show, whenever a run dies: a key or a ledger row twice, a done shard without its rows."""
    found = state(place)
    wrong = [f"key {key} stands {len(rows)} times" for key, rows in found.rows.items() if len(rows) > 1]
    wrong += [f"the ledger names {name} {len(rows)} times" for name, rows in found.ledger.items() if len(rows) > 1]
    counted = Counter(dict(row)["shard"] for rows in found.rows.values() for row in rows)
    for name, rows in found.ledger.items():
        promised = dict(rows[0])["embedded"]
        if counted[name] < promised:
            wrong.append(f"{name} is done with {promised} rows, the table holds {counted[name]}")
    return wrong


def shards_done(place: Place) -> set[str]:
    return {dict(row)["shard"] for row in _rows(place, "t.shards")}
