"""The results of benchmarks that the repository keeps."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

ROOT = Path(__file__).parents[1]
RESULTS = [*sorted((ROOT / "benchmarks/results").glob("*.json")), ROOT / "probes/evaluation/certainty/coverage.json"]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_every_result_names_the_processor_and_the_versions_it_was_measured_with(path):
    result = json.loads(path.read_text(encoding="utf-8"))
    assert result["machine"]["cpu"]
    assert result["machine"]["cores"] >= 1
    assert result["versions"]


ON_A_CPU = """
import sys, torch, benchmarks.gpu as gpu, benchmarks.synthetic as synthetic
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 0
gpu.PART_IMAGES, gpu.COPIES, gpu.DECODER_SECONDS, synthetic.CANVASES = 30, 2, 0.1, 1
gpu.find_spec = lambda name: None
provenance = gpu.provenance
gpu.provenance = lambda device: provenance("cpu") | {"machine": {"gpus": ["Stand-in"], "cores": 2, "cpu": "a CPU"}}
options = ["--device", "cpu", "--encoder", "timm:test_vit", "--processes", "2", "--seconds", "2"]
sys.argv = ["gpu", *options, *sys.argv[1:]]
sys.exit(gpu.main())
"""


def test_the_gpu_benchmark_runs_to_its_end_with_a_cpu_in_place_of_the_gpu(tmp_path):
    command = [sys.executable, "-c", ON_A_CPU, "--out", str(tmp_path / "gpu.json"), "--archive", str(tmp_path / "a")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    result = json.loads((tmp_path / "gpu.json").read_text())
    compiled, eager = result["runs"]
    assert compiled["images"] > 0
    assert compiled["end_to_end_images_per_second"] > 0
    assert min(compiled["cosine_to_fp32"], eager["cosine_to_fp32"]) > 0.999
    assert compiled["threads"]["read"] == 2
    assert done.returncode == bool(result["missed"]), done.stderr
    assert "Stand-in" in done.stdout


def test_the_gpu_benchmark_says_where_there_is_no_gpu(monkeypatch, capsys):
    monkeypatch.setenv("PYTORCH_NVML_BASED_CUDA_CHECK", "1")  # main sets it
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["gpu"])
    assert gpu.main() == gpu.NO_GPU
    assert "no GPU is visible here: nothing was measured" in capsys.readouterr().err
