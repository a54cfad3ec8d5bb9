"""The README's tour does what it says: its lines as they are printed, in one shell, in a new folder."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from benchmarks.summary import table


@pytest.fixture(scope="module")
def readme(request):
    return (request.config.rootpath / "README.md").read_text(encoding="utf-8")


def block(readme, language):
    (found,) = re.findall(rf"```{language}\n(.*?)```", readme, re.DOTALL)
    return found


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with nothing but the .venv that `make install` leaves in it."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


@pytest.fixture(scope="module")
def outputs(readme, clone):
    """Line of the tour → what it printed. A line that fails, or names a variable that is not set, ends the shell."""
    lines = [line for line in block(readme, "sh").splitlines() if line.strip()]
    marked = "\n".join(f"printf '\\n@@@\\n'\n{line}" for line in lines)
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", marked], cwd=clone, capture_output=True, text=True)
    printed = done.stdout.split("\n@@@\n")[1:]
    assert done.returncode == 0, f"{lines[len(printed) - 1]}\n{done.stderr}"
    return dict(zip(lines, printed, strict=True))


def output(outputs, start):
    (printed,) = (text for line, text in outputs.items() if line.startswith(start))
    return printed


@pytest.mark.case("U1")
def test_every_line_of_the_tour_runs_as_printed(outputs, clone):
    assert 10 <= len(outputs) <= 25
    assert "90 images embedded, 0 failed" in output(outputs, "indexer index")
    hits = json.loads(output(outputs, "indexer search tour/db tour/query.png --where"))["queries"][0]["hits"]
    assert {hit["columns"]["colour"] for hit in hits} == {"red"}
    assert "balanced accuracy" in output(outputs, "probes linear")
    assert {path.name for path in clone.iterdir()} == {".venv", "tour"}  # it writes where it says, and nowhere else
    assert (clone / "tour" / "vectors.parquet").is_file()


def test_other_programs_open_the_files_as_the_readme_says(readme, outputs, clone, monkeypatch):
    import duckdb
    import faiss
    import lancedb
    import polars

    monkeypatch.chdir(clone)
    (table,) = re.findall(r"`(lancedb\.connect\([^`]+)`", readme)
    (index,) = re.findall(r"`(faiss\.read_index\([^`]+)`", readme)
    assert eval(table, {"lancedb": lancedb}).count_rows() == 90
    assert eval(index, {"faiss": faiss}).ntotal == 90
    (query,) = re.findall(r"`(duckdb\.sql\([^`]+)`", readme)
    (frame,) = re.findall(r"`(polars\.read_parquet\([^`]+)`", readme)
    found = eval(frame, {"polars": polars})
    assert sorted(eval(query, {"duckdb": duckdb}).fetchall()) == sorted(found.select("key", "colour").rows())
    stored = eval(table, {"lancedb": lancedb}).to_arrow()
    assert found["vector"].to_list() == stored["vector"].to_pylist()


def test_the_python_of_the_readme_prints_five_ranked_hits(readme, outputs, clone):
    command = [sys.executable, "-c", block(readme, "python")]
    done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["1", "2", "3", "4", "5"]


@pytest.mark.case("U1")
def test_the_pictures_of_the_tour_never_overwrite_a_folder(tmp_path):
    (tmp_path / "tour").mkdir()
    command = [sys.executable, "-m", "indexer.demo.photos", tmp_path / "tour"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert "exists. Remove it, or name another folder." in done.stderr
    assert list((tmp_path / "tour").iterdir()) == []


def test_the_table_of_commands_names_no_command_that_does_not_exist(readme):
    from indexer.cli import COMMANDS
    from probes.cli import COMMANDS as PROBES

    for program, commands in (("indexer", COMMANDS), ("probes", PROBES)):
        named = set(re.findall(rf"(?:`|^){program} ([a-z][a-z-]*)", readme, re.MULTILINE))
        assert named - set(commands) == set()
        assert len(named) > 3
        for name in commands:
            assert name in readme


def test_the_make_targets_of_the_readme_exist(readme, request):
    makefile = (request.config.rootpath / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"make ([a-z-]+)", readme))
    assert targets > {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_files_and_folders_that_the_readme_sends_newcomers_to_are_there(readme, request):
    (joining,) = re.findall(r"## Joining in\n(.*?)\n## ", readme, re.DOTALL)
    named = set(re.findall(r"`?((?:indexer|probes|tests)/[\w/.]+\w)`?", joining))
    assert len(named) > 12
    missing = {name for name in named if not (request.config.rootpath / name).exists()}
    assert missing == set()


def test_the_readme_is_read_in_one_sitting(readme):
    assert len(readme.splitlines()) < 170


def test_the_measured_figures_are_those_of_the_result_files(readme):
    (measured,) = re.findall(r"## Measured\n(.*?)\n## ", readme, re.DOTALL)
    assert [line for line in measured.splitlines() if line.startswith("|")] == table()
