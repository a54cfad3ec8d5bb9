"""Wrong use of every command: one line with the way out, exit code 1 or 2, no traceback, nothing half written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import indexer.cli
import probes.cli
from tests.archives import png, write_tar
from tests.commands import Done, call
from tests.privileges import obeying_permissions
from tests.probes.cohort import make_cohort
from tests.tables import make_table, unit_rows

ODD = "späße ‘1’ \n zwei"  # a name as file systems allow it
VERBS = (
    "add, choose, correct, fill, fix, free, give, index, install, join, keep, leave, make, mend, name, pack, remove, "
    "rename, run, save, say, see, take, try, unpack, use, wait, widen, write"
).replace(", ", "|")
WAY_OUT = re.compile(rf"`[a-z-]+ |--[a-z]|[.:;] (?:Or )?({VERBS})\b|did you mean", re.IGNORECASE)
LABEL = ("--label", "ill", "--group", "patient", "--replicates", "10")
TIMES = ("--time", "months", "--event", "ill", "--group", "patient", "--replicates", "10")

# What a command is given where it needs it: paths below `house`, and nothing else begins with "@".
DB, ONE, EMPTY, NONE, TEXT, BYTES, FOLDER, RESULT = "@db", "@one", "@empty", "@none", "@t.txt", "@b.bin", "@dir", "@out"
BELOW_FILE, NO_FOLDER, SEALED = "@t.txt/x", "@none/x", "@sealed/x"  # places that cannot be written to
ODD_NONE = f"@{ODD}/none"

# Commands that take a database first, with what else they need to run.
OF_DATABASE: Mapping[str, tuple[str, ...]] = {
    "indexer serve": (),
    "indexer search": ("--key", "k0"),
    "indexer build-ann": (),
    "indexer labels": ("@labels.csv",),
    "indexer commit": (),
    "indexer merge": ("@one",),
    "indexer info": (),
    "indexer failures": (),
    "indexer health": (),
    "indexer near-duplicates": (),
    "indexer pool": ("--by", "patient"),
    "indexer optimize": (),
    "indexer embed": ("@a.png", "--out", "@v.npy"),
    "indexer export": ("@v.npy",),
    "indexer text": ("--prompts", "@prompts.json"),
    "probes linear": LABEL,
    "probes knn": LABEL,
    "probes prototype": LABEL,
    "probes svm": LABEL,
    "probes mlp": LABEL,
    "probes forest": LABEL,
    "probes zero-shot": (*LABEL, "--task", "ill"),
    "probes compare": (*LABEL, "--tables", "t,t"),
    "probes survival": TIMES,
}
PROBES = tuple(name for name in OF_DATABASE if name.startswith("probes"))
WRITES = {  # the option or argument that names an output, in the place of "@@"
    "indexer search": [("--key", "k0", "--html", "@@"), ("--key", "k0", "--png", "@@")],
    "indexer near-duplicates": [("--threshold", "0.5", "--out", "@@.csv"), ("--by", "patient", "--out", "@@.csv")],
    "indexer embed": [("@a.png", "--out", "@@.npy")],
    "indexer export": [("@@.npy",), ("@@.parquet",), ("--hf", "@@")],
    **{name: [(*OF_DATABASE[name], "--out", "@@")] for name in PROBES if name != "probes zero-shot"},
}


def of_all_commands() -> Iterator[tuple[str, ...]]:
    for program, commands in (("indexer", indexer.cli.COMMANDS), ("probes", probes.cli.COMMANDS)):
        yield program, "nonsense"
        for name in commands:
            if (program, name) not in (("indexer", "doctor"), ("indexer", "encoders")):  # which need no argument
                yield program, name
            yield program, name, "--nonsense"


def of_databases() -> Iterator[tuple[str, ...]]:
    for line, rest in OF_DATABASE.items():
        command = tuple(line.split())
        for db in (NONE, TEXT, BYTES, FOLDER, ODD_NONE, "", "s3://", "nix://host/x"):
            if (line, db) != ("indexer info", FOLDER):  # which says that there is no table, and that is an answer
                yield *command, db, *rest
        yield *command, DB, *rest, "--table", "nix"
        yield *command, DB, *rest, "--table", ODD
    for line, forms in WRITES.items():
        for form in forms:
            for place in (BELOW_FILE, NO_FOLDER, SEALED):
                if place != NO_FOLDER or not line.startswith("probes"):  # which makes the folder of a result
                    yield *line.split(), DB, *(part.replace("@@", place) for part in form)


def of_rows() -> Iterator[tuple[str, ...]]:
    for line in ("indexer search", *PROBES, "indexer near-duplicates", "indexer export"):
        for where in ("nix = 1", "(", "", "ill = 'x"):
            yield *line.split(), DB, *OF_DATABASE[line], "--where", where
    for line in PROBES:
        command = tuple(line.split())
        for db in (ONE, EMPTY):
            yield *command, db, *OF_DATABASE[line]
        yield *command, DB, *OF_DATABASE[line], "--where", "ill > 99"
        yield *command, DB, *OF_DATABASE[line], "--time" if line == "probes survival" else "--label", "nix"
        yield *command, DB, *OF_DATABASE[line], "--group", ODD
        yield *command, DB, *OF_DATABASE[line], "--split", "nix"
        yield *command, DB, *OF_DATABASE[line], "--subgroup", "nix"
        yield *command, DB, *OF_DATABASE[line], "--seed", "x"
    yield "indexer", "search", EMPTY, "--key", "k0"
    for queries in (("--key", "nix"), ("--key", ODD), ("--key", ""), ("--text", "x"), ()):
        yield "indexer", "search", DB, *queries


def of_files() -> Iterator[tuple[str, ...]]:
    for file in (NONE, FOLDER, BYTES, "@empty.txt", "@other.csv", ODD_NONE, "@bad.parquet", "@one.png"):
        yield "indexer", "labels", DB, file
        yield "indexer", "text", DB, "--prompts", file
        yield "indexer", "pack", "@pictures", "@packed", "--csv", file
    for file in (NONE, FOLDER, BYTES, TEXT, "@empty.txt", ODD_NONE, "@wide.npy", "@words.npy"):
        yield "indexer", "search", DB, "--vectors", file
        yield "indexer", "search", DB, file
    for source in (NONE, ODD_NONE, FOLDER, "", "@none/*.tar", "nix://host/x.tar"):
        yield "indexer", "index", source, "@new"
    for source in (NONE, ODD_NONE, FOLDER, TEXT, "", "s3://x/y"):
        yield "indexer", "pack", source, "@packed"
    for place in (TEXT, BELOW_FILE, SEALED):
        yield "indexer", "index", "@pictures", place
        yield "indexer", "pack", "@pictures", place


def of_servers() -> Iterator[tuple[str, ...]]:
    yield "indexer", "serve", DB, "--host", "0.0.0.0"
    yield "indexer", "serve", DB, "--host", "no.such.host.invalid", "--behind-proxy"
    yield "indexer", "serve", DB, "--port", "0.5"
    yield "indexer", "serve", DB, "--certificate", NONE
    for file in (NONE, FOLDER, "@empty.txt", ODD_NONE):
        yield "indexer", "serve", DB, "--token-file", file


def of_results() -> Iterator[tuple[str, ...]]:
    for result in (NONE, FOLDER, TEXT, BYTES, "@empty.txt", "@odd.json", ODD_NONE):
        for name in ("report", "card", "rerun"):
            yield "probes", name, result
        yield "probes", "predict", result, DB
    for place in (BELOW_FILE, NO_FOLDER, SEALED, FOLDER):
        yield "probes", "report", RESULT, "--html", place
    for db in (NONE, TEXT, ONE, EMPTY, FOLDER, ""):
        yield "probes", "rerun", RESULT, "--db", db
    for db in (NONE, TEXT, FOLDER, "@other", ""):
        yield "probes", "predict", RESULT, db


ALONE = (  # wrong in a way of one command
    ("indexer", "labels", DB, "@labels.csv", "--on", "nix"),
    ("indexer", "labels", DB, "@labels.csv", "--on", "nix=key"),
    ("indexer", "labels", DB, "@labels.csv", "--columns", ODD),
    ("indexer", "index", "@pictures", "@new", "--encoder", "nix"),
    ("indexer", "index", "@pictures", "@new", "--weights", NONE),
    ("indexer", "index", "@pictures", "@new", "--window", "nix"),
    ("indexer", "index", "@pictures", "@new", "--device", "nix"),
    ("indexer", "index", "@pictures", "@new", "--table", "a/b"),
    ("indexer", "index", "@pictures", "@new", "--mpp", "0.5"),
    ("indexer", "index", "@pictures", "@new", "--coords", NONE),
    ("indexer", "index", "@pictures", "@new", "--tile", "64"),
    ("indexer", "index", "@pictures", "@new", "--tile", "64", "--mpp", "0.5"),
    ("indexer", "index", "@pictures", "@new", "--tile", "64", "--mpp", "0.5", "--mpp-of", NONE),
    ("indexer", "index", "@pictures", "@new", "--tile", "64", "--mpp", "0.5", "--coords", NONE),
    ("indexer", "index", "https://host/s.svs", "@new", "--tile", "64", "--mpp", "0.5"),
    ("indexer", "index", "@pictures", ""),
    ("indexer", "merge", DB, DB),
    ("indexer", "merge", DB, "@other"),
    ("indexer", "merge", DB, NONE),
    ("indexer", "index", "@pictures", "@new", "--part", "4/4"),
    ("indexer", "index", "@pictures", "@new", "--part", "0/2", "--gone", "drop"),
    ("indexer", "index", "@pictures", "@new", "--no-commit"),
    ("indexer", "index", "@pictures", "@new", "--address", "nix:1"),
    ("indexer", "index", "@pictures", "@new", "--engine", "ray", "--address", "127.0.0.1:1"),
    ("indexer", "index", "@pictures", "@new", "--engine", "ray", "--part", "0/2"),
    ("indexer", "pack", "@pictures", "@packed", "--secret", NONE, "--csv", "@files.csv", "--hash", "who"),
    ("indexer", "pack", "@pictures", "@packed", "--on", "x"),
    ("indexer", "search", DB, "--key", "k0", "--by", "patient"),
    ("indexer", "search", DB, "--key", "k0", "--by", "nix"),
    ("indexer", "search", DB, "--group", "k0"),
    ("indexer", "info", DB, "--by", "nix"),
    ("indexer", "info", DB, "--flagged"),
    ("indexer", "pool", DB, "--by", "nix"),
    ("indexer", "pool", DB, "--by", "patient", "--method", "nix"),
    ("indexer", "pool", EMPTY, "--by", "key"),
    ("indexer", "embed", DB, NONE, "--out", "@v.npy"),
    ("indexer", "embed", DB, "@a.png", "--out", "@v.txt"),
    ("indexer", "export", DB, "@v.txt"),
    ("indexer", "doctor", NONE),
    ("indexer", "doctor", "--encoder", "nix"),
    ("indexer", "encoders", "--all", "x", "y"),
    ("indexer", "failures", DB, "--retry", "--pictures-from", NONE),
    ("probes", "predict", RESULT, DB, "--write", "a b"),
    ("probes", "predict", RESULT, DB, "--images", NONE),
    ("probes", "predict", RESULT, DB, "--where", "nix"),
    ("probes", "compare", DB, *LABEL, "--tables", "t,nix"),
    ("probes", "compare", DB, *LABEL, "--tables", "t"),
    ("probes", "plan", "--prevalence", "0.2"),
    ("probes", "linear", DB, *LABEL, "--link", "cumulative"),
    ("probes", "linear", DB, *LABEL, "--numeric", "--multilabel"),
    ("probes", "linear", DB, *LABEL, "--numeric", "--label", "finding"),
    ("probes", "knn", DB, *LABEL, "--numeric", "--preset", "uni"),
    ("probes", "compare", DB, *LABEL, "--tables", "t,t", "--numeric", "--metric", "ap_macro"),
    ("probes", "compare", DB, *LABEL, "--tables", "t,t", "--numeric", "--probe", "forest"),
    ("probes", "survival", DB, *TIMES, "--event", "grade"),
    ("probes", "survival", DB, *TIMES, "--event", "months"),
    ("probes", "survival", DB, *TIMES, "--split", "nested", "--multiverse"),
    ("probes", "linear", DB, *LABEL, "--test-db", "@other"),
    ("probes", "linear", DB, *LABEL, "--test-where", "("),
    ("probes", "linear", DB, *LABEL, "--out", "@pictures"),
    ("probes", "knn", DB, *LABEL, "--out", RESULT),
)
USES = [
    *dict.fromkeys([*of_all_commands(), *of_databases(), *of_rows(), *of_files(), *of_results(), *of_servers(), *ALONE])
]


@pytest.fixture(scope="module")
def house(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("house")
    make_cohort(root / "db", patients=20)
    make_table(root / "one", unit_rows(1, 12), [{"patient": "p", "ill": 1}])
    make_table(root / "empty", unit_rows(0, 12))
    make_table(root / "other", unit_rows(4, 8))
    for folder in ("dir", "sealed", "pictures", ODD):
        (root / folder).mkdir()
    (root / "pictures" / "a.png").write_bytes(png(1))
    (root / "a.png").write_bytes(png(1))
    (root / "one.png").write_bytes(png(2))
    (root / "t.txt").write_text("words\nand more\n")
    (root / "b.bin").write_bytes(bytes(range(256)) * 8)
    (root / "empty.txt").write_bytes(b"")
    (root / "bad.parquet").write_bytes(b"PAR1 and nothing else")
    (root / "labels.csv").write_text("key,late\nk0,1\nk1,0\n")
    (root / "other.csv").write_text("key,path,late\nnix,nix,1\n")
    (root / "files.csv").write_text("path,who\na.png,x\n")
    (root / "prompts.json").write_text(json.dumps({"0": ["well"], "1": ["ill"]}))
    (root / "odd.json").write_text('{"probe": "linear"}')
    np.save(root / "wide.npy", np.ones((2, 13), np.float32))
    np.save(root / "words.npy", np.array(["x"]))
    write_tar(root / "s.tar", [("a.png", png(3))])
    done = call("probes", "linear", root / "db", *LABEL, "--out", root / "out")
    assert done.code == 0, done.err
    (root / "sealed").chmod(0o500)
    return root


def state(root: Path) -> dict[str, tuple[int, int]]:
    """Each file and folder with its size and time; not what readers leave: caches of vectors, locks and leases."""
    found = {}
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if not re.search(r"\.(cache|lock|lease)\b", name):
            found[name] = (0, 0) if path.is_dir() else (path.stat().st_size, path.stat().st_mtime_ns)
    return found


def check(done: Done) -> list[str]:
    """What is wrong with the answer to a wrong use."""
    faults = []
    lines = done.err.splitlines()
    said = [line for line in lines if not re.match(r"Usage: |Try '|$", line)]
    if done.code not in (1, 2):
        faults.append(f"exit code {done.code}")
    if "Traceback" in done.err:
        faults.append("a traceback")
    if len(said) != 1:
        faults.append(f"{len(said)} lines on stderr")
    if not WAY_OUT.search(done.err):
        faults.append("no way out")
    return faults


@pytest.mark.parametrize("words", USES, ids=lambda words: " ".join(words).replace("\n", "_"))
def test_wrong_use_is_one_line_with_the_way_out_and_leaves_nothing(house, monkeypatch, words):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(house / "config"))  # where `pack` makes its secret
    monkeypatch.chdir(house / "dir")  # what "" must not be taken for
    before = state(house)
    line = [str(house / word[1:]) if word.startswith("@") else word for word in words]
    with obeying_permissions():
        done = call(line[0], *line[1:])
    left = {name for name, facts in state(house).items() if before.get(name) != facts}
    for name in left - before.keys():  # for the uses that come after this one
        shutil.rmtree(house / name) if (house / name).is_dir() else (house / name).unlink(missing_ok=True)
    assert (check(done), left) == ([], set()), f"{done.code}\n{done.out}\n{done.err}"


def test_every_command_of_both_programs_is_used_wrongly():
    used = {words[:2] for words in USES}
    assert {("indexer", name) for name in indexer.cli.COMMANDS} <= used
    assert {("probes", name) for name in probes.cli.COMMANDS} <= used
