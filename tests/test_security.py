"""No code is ever loaded from a file, nothing leaves its folder, and no secret is shown."""

from __future__ import annotations

import ast
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from indexer.ann.goal import Goal
from indexer.ann.index import load
from indexer.archive.reader import read_shard
from indexer.encoders.families.catalogue import bundled_weights
from indexer.encoders.families.file_hash import verified
from indexer.errors import BadFilter, IndexFileError, WeightsMismatch
from indexer.search.index_build import build_index
from indexer.store.table import EmbeddingStore
from indexer.types import Shard
from tests.archives import picture, png, write_tar
from tests.commands import call
from tests.pictures import deep, dicom, members
from tests.tables import make_table, unit_rows

ROOT = Path(__file__).parents[1]
ENCODER = ("--encoder", "timm:test_vit", "--weights", "random")
SOURCES = sorted(path for package in ("indexer", "probes", "benchmarks") for path in (ROOT / package).rglob("*.py"))
RUNS_CODE = {"pickle", "cPickle", "_pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal", "jsonpickle", "yaml"}
HARMLESS = {("pickle", "UnpicklingError")}  # only to catch it
OWN_ALONE = {("benchmarks/cluster.py", "pickle")}  # of what the same process made, in place of Ray's object store
MUST_SAY = {  # call → the argument that keeps it from running what it loads
    "load": {"torch": ("weights_only", True), "np": ("allow_pickle", False), "numpy": ("allow_pickle", False)},
    "load_checkpoint": {"open_clip": ("weights_only", True)},
    "get_state_dict": {None: ("weights_only", True)},
}
NEVER = {"extract", "extractall", "popen", "mktemp", "from_pickle", "read_pickle"}
NEVER_BARE = {(None, "eval"), (None, "exec"), ("os", "system")}  # model.eval() and platform.system() are others


def calls(path: Path) -> list[tuple[str | None, str, ast.Call]]:
    """(what stands before the dot, name, call)"""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                owner = node.func.value.id if isinstance(node.func.value, ast.Name) else ""
                found.append((owner, node.func.attr, node))
            elif isinstance(node.func, ast.Name):
                found.append((None, node.func.id, node))
    return found


def test_no_module_imports_a_library_that_runs_what_it_loads():
    wrong = []
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [(alias.name.split(".")[0], "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [(node.module.split(".")[0], alias.name) for alias in node.names]
            wrong += [
                f"{path.relative_to(ROOT)}: {name}"
                for name in names
                if name[0] in RUNS_CODE and name not in HARMLESS
                if (path.relative_to(ROOT).as_posix(), name[0]) not in OWN_ALONE
            ]
    assert wrong == []


def test_every_load_of_tensors_or_arrays_forbids_pickles_in_words():
    wrong, seen = [], 0
    for path in SOURCES:
        for owner, name, call_ in calls(path):
            rule = MUST_SAY.get(name, {})
            if owner not in rule and None not in rule:
                continue
            seen += 1
            argument, value = rule.get(owner) or rule[None]
            given = {k.arg: getattr(k.value, "value", "?") for k in call_.keywords}
            if given.get(argument, "missing") is not value:
                wrong.append(f"{path.relative_to(ROOT)}:{call_.lineno} {owner}.{name} lacks {argument}={value}")
    assert wrong == []
    assert seen >= 5  # the rule still finds them


def test_nothing_evaluates_text_unpacks_archives_or_asks_a_shell():
    wrong = []
    for path in SOURCES:
        for owner, name, call_ in calls(path):
            shell = any(k.arg == "shell" and getattr(k.value, "value", True) for k in call_.keywords)
            if shell or name in NEVER or (owner, name) in NEVER_BARE:
                wrong.append(f"{path.relative_to(ROOT)}:{call_.lineno} {name}")
    assert wrong == []


def test_weights_whose_bytes_are_not_those_of_their_name_are_refused(tmp_path):
    real = bundled_weights()
    assert verified(real) == real
    altered = tmp_path / real.name
    data = bytearray(real.read_bytes())
    data[len(data) // 2] ^= 1
    altered.write_bytes(data)
    with pytest.raises(WeightsMismatch, match="altered or truncated"):
        verified(altered)


@pytest.mark.parametrize("where", ["generation", "files.index.name", "files.keys.name"])
@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "v1/../../x", ""])
def test_a_manifest_cannot_name_a_file_outside_its_directory(tmp_path, where, name):
    store = make_table(tmp_path, unit_rows(30, 8))
    build_index(store, Goal(kind="exact"))
    path = store.index_directory / "manifest.json"
    facts = json.loads(path.read_text())
    inner = facts
    for part in where.split(".")[:-1]:
        inner = inner[part]
    inner[where.split(".")[-1]] = name
    path.write_text(json.dumps(facts))
    with pytest.raises(IndexFileError, match="damaged"):
        load(store.index_directory)


NAMES = [
    "../../evil.png",
    "/etc/evil.png",
    "a/../../evil.png",
    "..\\..\\evil.png",
    "C:\\evil.png",
    "a\0b.png",
    "~/evil.png",
]


def test_member_names_are_keys_and_never_paths(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    path = write_tar(folder / "s.tar", [(name, png(i)) for i, name in enumerate(NAMES)])
    before = sorted(tmp_path.rglob("*"))
    found = list(read_shard(Shard(str(path), str(path), "1")))
    assert len(found) == len(NAMES)
    assert sorted(tmp_path.rglob("*")) == before
    assert not Path("/etc/evil.png").exists()


def test_names_that_are_no_utf8_and_half_surrogates_in_metadata_are_stored(tmp_path):
    latin = "patient-\udce9.png"  # "é" as an old archive has it
    path = write_tar(tmp_path / "s.tar", [(latin, png(1)), ("patient-\udce9.json", b'{"name": "\\ud800x", "n": 1}')])
    done = call("indexer", "index", path, tmp_path / "db", *ENCODER, "--json")
    assert done.code == 0, done.err
    assert done.json["embedded"] == 1
    shown = call("indexer", "search", tmp_path / "db", "--key", "patient-%E9", "--json")
    assert shown.code == 0, shown.err


FILTERS = [
    "1=1; DROP TABLE t", "sex = 'F' garbage", "sex = 'F') OR (1=1", "sex = 'F' -- x", "sex = 'F' /* x",
    "key IN (SELECT key FROM t)", "(SELECT 1)", "", "  ", "sex = 'F", 'sex = "F', "random() > 0.5",
    "1 UNION SELECT 1", "sex = $1", "\0",
]  # fmt: skip


@pytest.mark.parametrize("where", FILTERS)
def test_a_filter_is_one_expression_or_an_error_and_never_anything_else(tmp_path, where):
    facts = [{"sex": "FM"[i % 2]} for i in range(10)]
    store = make_table(tmp_path, unit_rows(10, 8), facts)
    with pytest.raises(BadFilter):
        store.count(where)
    assert store.count() == 10
    assert store.count("sex = 'F'") == 5


SECRETS = ["hunter2secret", "AKIAVERYSECRET", "sigsecretsig"]
URL = "http://reader:hunter2secret@127.0.0.1:9/a.tar?X-Amz-Credential=AKIAVERYSECRET&X-Amz-Signature=sigsecretsig&n=1"


@pytest.mark.parametrize("source", [URL, f"pipe:curl --fail -s -u reader:hunter2secret '{URL}'"])
def test_credentials_in_a_shards_address_are_in_no_output_and_no_file(tmp_path, source):
    db = tmp_path / "db"
    done = call("indexer", "index", source, db, *ENCODER, "--json")
    assert done.code == 1
    later = [call("indexer", command, db, "--json").out for command in ("info", "failures")]
    shown = [done.out, done.err, *later]
    stored = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    for secret in SECRETS:
        assert not any(secret in text for text in shown), shown
        assert not any(secret.encode() in data for data in stored)


def test_the_pack_secret_is_private_and_in_no_output_and_no_file(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.dcm").write_bytes(dicom(deep(40, 50), PatientID="4711", PatientName="DOE^JANE"))
    secret = tmp_path / "secret"
    old = os.umask(0)
    try:
        done = call("indexer", "pack", source, tmp_path / "out", "--secret", secret, "--new-secret", "--json")
    finally:
        os.umask(old)
    assert done.code == 0, done.err
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    text = secret.read_text().strip()
    assert text not in done.out + done.err
    written = [p for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert len(written) > 2
    assert not any(text.encode() in p.read_bytes() for p in written)
    records = [p.read_bytes() for p in written if p.suffix != ".tar"]
    records += [data for p in written if p.suffix == ".tar" for name, data in members(p).items() if "json" in name]
    assert len(records) >= 3
    assert not any(b"DOE" in data or b"4711" in data for data in records)
    assert stat.S_IMODE((tmp_path / "out" / ".pack" / "files.csv").stat().st_mode) == 0o600


def test_no_file_that_a_run_makes_can_be_written_by_others(tmp_path):
    path = write_tar(tmp_path / "s.tar", [(f"{i}.png", png(i)) for i in range(4)])
    db = tmp_path / "db"
    code = (
        "import os, sys; os.umask(0o022); sys.argv = ['indexer', *sys.argv[1:]]; from indexer.cli import main; main()"
    )
    argv = ["index", path, db, *ENCODER]
    subprocess.run([sys.executable, "-c", code, *map(str, argv)], cwd=ROOT, check=True, capture_output=True)
    subprocess.run([sys.executable, "-c", code, "build-ann", str(db)], cwd=ROOT, check=True, capture_output=True)
    made = [p for p in db.rglob("*") if not p.is_symlink()]
    assert len(made) > 10
    assert [p for p in made if p.stat().st_mode & 0o022] == []


@pytest.mark.case("X8")
def test_a_message_cannot_steer_the_terminal(tmp_path):
    name = "\x1b[2Jgone\x07.tar"
    done = call("indexer", "index", tmp_path / name, tmp_path / "db")
    assert done.code == 1
    assert "gone" in done.err
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", done.err)


def test_an_npy_of_objects_is_refused_as_a_query(tmp_path):
    store = make_table(tmp_path / "db", unit_rows(10, 8))
    np.save(tmp_path / "q.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    done = call("indexer", "search", store.uri, "--vectors", tmp_path / "q.npy")
    assert (done.code, done.out) == (1, "")
    assert f"{tmp_path / 'q.npy'} is not a .npy file of numbers" in done.err
    assert done.err.count("\n") == 1


@pytest.mark.case("X2")
def test_no_process_of_ours_imports_a_module_from_the_current_folder(tmp_path):
    """A handed-over folder may hold struct.py or indexer/__init__.py; its owner's indexer must not run them."""
    here = tmp_path / "handed-over"
    (here / "indexer").mkdir(parents=True)
    mark = tmp_path / "mark"
    trap = f"open({str(mark)!r}, 'a').write(__name__ + ' ')\nraise SystemExit(3)\n"
    for name in ("struct.py", "indexer/__init__.py", "socket.py", "numpy.py", "pickle.py"):
        (here / name).write_text(trap)
    images = here / "images"
    images.mkdir()
    for n in range(3):
        Image.fromarray(picture(n).astype(np.uint16)[..., 0] * 200).save(images / f"{n}.tif", compression="tiff_lzw")
    program = Path(sys.executable).parent / "indexer"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    db, shards = str(tmp_path / "db"), str(tmp_path / "shards")
    for words in (["index", "images", db, *ENCODER], ["pack", "images", shards, "--processes", "2"]):
        done = subprocess.run(
            [str(program), *words], cwd=here, env=environment, capture_output=True, text=True, check=False
        )
        assert (done.returncode, mark.exists()) == (0, False), done.stderr
    assert EmbeddingStore.open(db).count() == 3
