"""The bottleneck in words, with one thing to do about it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from indexer.pipeline import report
from indexer.pipeline.report import bottleneck
from indexer.types import StageTime

COUNT = "from indexer.cores import cores; print(cores())"


def words(read=0.0, decode=0.0, encode=0.0, store=0.0, *, workers, device="cpu", decoder="cpu-2", computed=None):
    """Of a run of 100 s on a machine of 8 cores; busy seconds summed over threads."""
    threads = {"read": 1, "decode": workers, "encode": workers, "store": 1}
    busy = {"read": read, "decode": decode, "encode": encode, "store": store}
    stages = tuple(StageTime(name, busy[name], threads[name]) for name in threads)
    return bottleneck(stages, 100.0, device=device, decoder=decoder, computed=computed)


@pytest.fixture(autouse=True)
def eight_cores(monkeypatch):
    monkeypatch.setattr(report, "cores", lambda: 8)


@pytest.mark.parametrize(
    ("busy", "said"),
    [
        (
            {"decode": 560, "encode": 229},
            "decode-bound: 71 % of the workers' time; 8 more cores would halve it, "
            "or --decoder gpu for JPEG on a machine with a GPU",
        ),
        (
            {"decode": 60, "encode": 730, "read": 60, "store": 5},
            "model-bound: 92 % of the workers' time; a GPU (--device cuda), or 8 more cores to halve it",
        ),
        (
            {"read": 97, "decode": 50, "encode": 50},
            "read-bound: 97 % of the time; put the shards on a faster disk or nearer",
        ),
        ({"store": 80, "decode": 50, "encode": 50}, "store-bound: 80 % of the time; put the database on a faster disk"),
        ({}, "nothing was embedded"),
        ({"read": 90, "decode": 700}, "nothing was embedded"),  # every image failed
    ],
)
def test_on_a_cpu_decoding_and_the_model_share_the_workers(busy, said):
    assert words(**busy, workers=8) == said


@pytest.mark.parametrize(
    ("busy", "device", "decoder", "said"),
    [
        # the GPU is used for half of the time: twice the cores would fill it
        (
            {"decode": 780, "encode": 50},
            "cuda:0",
            "cpu-2",
            "decode-bound: 98 % of the cores' time, GPU busy 50 %; 8 more cores, or --decoder gpu for JPEG",
        ),
        # four workers wait for the GPU all the time
        (
            {"decode": 300, "encode": 400},
            "cuda:0",
            "cpu-2",
            "model-bound: GPU busy 100 % of the time; 1 more GPU would halve it",
        ),
        (
            {"decode": 790, "encode": 80},
            "cuda:0,cuda:1",
            "cpu-2",
            "decode-bound: 99 % of the cores' time, GPUs busy 40 %; 12 more cores, or --decoder gpu for JPEG",
        ),
        (
            {"decode": 700, "encode": 60},
            "cuda:0",
            "gpu-1",
            "decode-bound: GPU busy 60 % of the time; 1 more to decode on",
        ),
    ],
)
def test_with_gpus_the_cores_that_would_fill_them_are_named(busy, device, decoder, said):
    assert words(**busy, workers=10, device=device, decoder=decoder) == said


def test_a_gpu_is_as_busy_as_it_was_measured_however_long_batches_waited_for_it():
    busy = {"decode": 780, "encode": 400}
    said = words(**busy, workers=10, device="cuda:0", computed=50)
    assert said == "decode-bound: 98 % of the cores' time, GPU busy 50 %; 8 more cores, or --decoder gpu for JPEG"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system binds no process to cores")
def test_the_cores_are_those_this_process_may_run_on():
    code = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))]); " + COUNT
    counted = [subprocess.run([sys.executable, "-c", c], capture_output=True, check=True).stdout for c in (code, COUNT)]
    assert [int(text) for text in counted] == [1, len(os.sched_getaffinity(0))]
