"""Runs a recipe: index, labels and a linear probe for each encoder, by the commands that a user would type.

Each finished step is recorded in OUT/benchmark.json; the same call again goes on where the last one stopped. The time
of a step is the sum over all calls.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexer.children import environment, python_command
from indexer.disk import make_directory, replace_file
from indexer.errors import ProbeError
from indexer.store.names import default_table
from probes.benchmark.recipes import RECIPES, Published, Recipe
from probes.evaluation.bootstrap import Interval
from probes.runs.result_files import read_result

STATE = "benchmark.json"
Call = Callable[[str, Sequence[str]], None]  # a program and its arguments; raises ProbeError where it fails


@dataclass(frozen=True)
class Step:
    """One command."""

    name: str  # unique in the run
    program: str  # indexer | probes
    arguments: tuple[str, ...]
    reads: tuple[Path, ...] = ()  # of the data: where one of these files changed, the step is done again

    @property
    def line(self) -> str:
        return shlex.join([self.program, *self.arguments])


@dataclass(frozen=True)
class Row:
    """What one encoder reached."""

    encoder: str
    images: int  # embedded
    failed: int
    test_rows: int
    auc: Interval  # macro
    balanced_accuracy: Interval
    seconds_embed: float
    seconds_labels: float
    seconds_probe: float
    split: str  # the split's statement
    image_level: bool  # images of one patient may be on both sides


@dataclass(frozen=True)
class Benchmark:
    """The table of a run."""

    name: str
    title: str
    modality: str
    protocol: str  # the probe's options
    note: str
    rows: tuple[Row, ...]
    published: tuple[Published, ...]
    commands: tuple[str, ...]


def run_benchmark(
    name: str, data: Path, out: Path, encoders: Sequence[str], more: Sequence[str] = (), call: Call | None = None
) -> Benchmark:
    """Run what is not done yet. `more` are further options of `indexer index`. Raises ProbeError."""
    recipe = _recipe(name)
    _check(name, recipe, data, encoders)
    make_directory(out)
    state = _State(out / STATE, name)
    commands = []
    for encoder in encoders:
        planned = list(steps(recipe, data, out, encoder, more))
        commands += [step.line for step in planned]
        for at, step in enumerate(planned):
            state.run(step, call or run_command, planned[at + 1 :])
    rows = tuple(_row(encoder, out, state) for encoder in encoders)
    return Benchmark(
        name, recipe.title, recipe.modality, shlex.join(["probes", "linear", *recipe.probe]), recipe.note, rows,
        recipe.published, tuple(commands),
    )  # fmt: skip


def steps(recipe: Recipe, data: Path, out: Path, encoder: str, more: Sequence[str] = ()) -> Iterator[Step]:
    """The commands for one encoder, in order."""
    db, table = str(out / "db"), default_table(encoder)
    sources = [str(data / source) for source in recipe.sources]
    index = ("index", *sources, db, "--encoder", encoder, "--table", table, *more)
    yield Step(f"index {table}", "indexer", index, tuple(map(Path, sources)))
    for file, *options in recipe.labels:
        labels = ("labels", db, str(data / file), "--table", table, *options)
        yield Step(f"labels {table} {file}", "indexer", labels, (data / file,))
    where = ("--table", table, "--out", str(out / table), "--replace")
    yield Step(f"probe {table}", "probes", ("linear", db, *recipe.probe, *where))


def run_command(program: str, arguments: Sequence[str]) -> None:
    """Run one of our programs; its progress goes to stderr, its report is not shown. Raises ProbeError."""
    process = subprocess.Popen(
        python_command(program, *arguments), stdout=subprocess.DEVNULL, env=environment(), stdin=subprocess.DEVNULL
    )
    try:
        code = process.wait()
    except KeyboardInterrupt:  # the terminal told the child, too: it keeps what is done
        process.wait()
        raise
    if code:
        raise ProbeError(
            f"`{shlex.join([program, *arguments])}` ended with exit code {code}. Correct the cause above, and run the "
            "same benchmark again: what is done is kept."
        )


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ProbeError(f"no recipe {name!r}; there are: {', '.join(RECIPES)}. See `probes benchmark --list`.")
    return RECIPES[name]


def _check(name: str, recipe: Recipe, data: Path, encoders: Sequence[str]) -> None:
    needed = [*recipe.sources, *(file for file, *_ in recipe.labels)]
    missing = [file for file in dict.fromkeys(needed) if not (data / file).exists()]
    if missing:
        raise ProbeError(
            f"{data} lacks {', '.join(missing)}: recipe {name} needs {', '.join(recipe.files)}. "
            "Name their folder with --data."
        )
    tables = [default_table(encoder) for encoder in encoders]
    if len(set(tables)) < len(tables):
        raise ProbeError("an encoder is named twice with --encoder. Leave one out.")


class _State:
    """The steps that are done, with their commands and seconds, in a file that is replaced after each."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._steps: dict[str, dict[str, Any]] = {}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                same, self._steps = found["recipe"] == name, dict(found["steps"])
            except (ValueError, KeyError, TypeError) as error:
                raise ProbeError(f"{path} is no record of a benchmark ({error}). Name another --out.") from error
            if not same:
                raise ProbeError(f"{path.parent} holds the benchmark {found['recipe']}. Name another --out.")
        self._name = name

    def run(self, step: Step, call: Call, later: Sequence[Step]) -> None:
        """Run a step that is not done, or whose files changed. The `later` ones rest on it: none of them is done then.

        That is on record before the step begins, so that a run that is killed leaves no old result that passes for new.
        """
        before, files = self._steps.get(step.name, {}), _file_states(step.reads)
        same = before.get("command") == step.line and before.get("files") == files
        if before.get("done") and same:
            return
        for following in later:
            self._steps.pop(following.name, None)
        spent = before.get("seconds", 0.0) if same else 0.0
        self._keep(step, files, spent, done=False)
        start, done = time.perf_counter(), False
        try:
            call(step.program, step.arguments)
            done = True
        finally:
            self._keep(step, files, spent + time.perf_counter() - start, done=done)

    def _keep(self, step: Step, files: dict[str, list[int]], seconds: float, *, done: bool) -> None:
        self._steps[step.name] = {"command": step.line, "done": done, "seconds": round(seconds, 3), "files": files}
        text = json.dumps({"recipe": self._name, "steps": self._steps}, indent=1, ensure_ascii=False)
        replace_file(self._path, text + "\n")

    def seconds(self, kind: str, table: str) -> float:
        return sum(
            float(step["seconds"])
            for name, step in self._steps.items()
            if name == f"{kind} {table}" or name.startswith(f"{kind} {table} ")
        )


def _file_states(paths: Sequence[Path]) -> dict[str, list[int]]:
    """Size and time of each that is a file; a folder's shards are for `indexer index` to know."""
    found = {path: path.stat() for path in paths if path.is_file()}
    return {str(path): [state.st_size, state.st_mtime_ns] for path, state in found.items()}


def _row(encoder: str, out: Path, state: _State) -> Row:
    table = default_table(encoder)
    result = read_result(out / table)
    metrics = result.test.metrics
    return Row(
        encoder, result.flow.embedded, result.flow.failed, result.test.rows, metrics["auc_macro"],
        metrics["balanced_accuracy"], state.seconds("index", table), state.seconds("labels", table),
        state.seconds("probe", table), result.split.statement, result.split.level == "image",
    )  # fmt: skip
