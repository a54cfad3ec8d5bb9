"""The README's tour does what it says, line by line, on pictures made here."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import subprocess

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pytest
from PIL import Image

from tests.commands import call

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}


def tour(root):
    (block,) = re.findall(r"```sh\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    return [re.sub(r"\s{2,}#.*", "", line) for line in block.splitlines() if line.strip()]


@pytest.fixture
def pictures(tmp_path):
    """90 noisy pictures of three colours of 30 patients, their labels, and a query; returns the environment."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    labels = {"key": [], "colour": [], "patient": []}
    for i in range(90):
        colour = list(COLOURS)[i % 3]
        pixels = np.clip(rng.normal(COLOURS[colour], 30, (64, 64, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "in" / f"im{i:02d}.png")
        for name, value in (("key", f"im{i:02d}"), ("colour", colour), ("patient", f"p{i // 3}")):
            labels[name].append(value)
    pa.csv.write_csv(pa.table(labels), tmp_path / "labels.csv")
    return {
        "IMAGES": str(tmp_path / "in"),
        "QUERY": str(tmp_path / "in/im00.png"),
        "LABELS": str(tmp_path / "labels.csv"),
    }


def test_the_tour_runs_as_printed(pictures, tmp_path, monkeypatch, request):
    lines = tour(request.config.rootpath)
    assert 10 <= len(lines) <= 25
    monkeypatch.chdir(tmp_path)
    outputs = {}
    for line in lines:
        words = shlex.split(re.sub(r"\$(\w+)", lambda m: pictures[m.group(1)], line))
        if words[0] in ("indexer", "probes"):
            done = call(*words)
            assert done.code == 0, f"{line}\n{done.err}"
            outputs[" ".join(words[:2])] = done.out
        else:
            subprocess.run(line, shell=True, check=True, env={**os.environ, **pictures})
    assert '"colour": "red"' in outputs["indexer search"]
    assert "balanced" in outputs["probes linear"].lower()
    assert (tmp_path / "vectors.parquet").exists()
    (block,) = re.findall(r"```python\n(.*?)```", (request.config.rootpath / "README.md").read_text(), re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(block, {})
    ranks = [line.split()[0] for line in printed.getvalue().splitlines()]
    assert ranks == ["1", "2", "3", "4", "5"]
    assert lancedb.connect("db").open_table("efficientnet-lite0").count_rows() == 90


def test_the_table_of_commands_names_no_command_that_does_not_exist(request):
    from indexer.cli import COMMANDS
    from probes.cli import COMMANDS as PROBES

    readme = (request.config.rootpath / "README.md").read_text()
    named = set(re.findall(r"`indexer ([a-z-]+)", readme)) | set(
        re.findall(r"^indexer ([a-z-]+)", readme, re.MULTILINE)
    )
    assert named <= set(COMMANDS)
    probes = set(re.findall(r"`probes ([a-z-]+)", readme)) | set(re.findall(r"^probes ([a-z-]+)", readme, re.MULTILINE))
    assert {p for p in probes if not p.startswith("-")} <= set(PROBES)


def test_the_make_targets_of_the_readme_exist(request):
    makefile = (request.config.rootpath / "Makefile").read_text()
    for target in re.findall(r"make ([a-z-]+)", (request.config.rootpath / "README.md").read_text()):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
