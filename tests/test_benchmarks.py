"""The results of benchmarks that the repository keeps."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RESULTS = [*sorted((ROOT / "benchmarks/results").glob("*.json")), ROOT / "probes/evaluation/certainty/coverage.json"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_every_result_names_the_processor_and_the_versions_it_was_measured_with(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["machine"]["cpu"]
    assert result["machine"]["cores"] >= 1
    assert result["versions"]
