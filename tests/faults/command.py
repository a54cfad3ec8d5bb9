"""A forked child does what the installed command does: the same table, exit codes and killed halves."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.faults.kills import new_place
from tests.faults.life import STEPS, compare, state
from tests.faults.material import Material
from tests.faults.runs import ROOT, Zygote
from tests.faults.tally import Tally

START_SECONDS = 15.0  # of imports; the kills come around the end of them


def same_as_the_command(zygote: Zygote, material: Material, root: Path, kills: int = 3) -> Tally:
    """One life by `python -m indexer` itself, its first index runs killed, beside one by forked children."""
    tally = Tally("the installed command itself")
    own, forked = new_place(root, "own", material), new_place(root, "forked", material)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    for step in STEPS:
        step.before(own)
        step.before(forked)
        argv = [sys.executable, "-m", "indexer", *map(str, step.argv(own))]
        for number in range(kills if step.name == "index" else 0):
            process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
            end = time.monotonic() + START_SECONDS
            while process.poll() is None and time.monotonic() < end and _commits(own.db) < 2 * number + 1:
                time.sleep(0.01)
            process.kill()
            process.communicate()
            tally.runs += 1
            tally.faults += process.returncode == -signal.SIGKILL
        done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        tally.runs += 1
        code = zygote.run(*step.argv(forked)).code
        if done.returncode != code:
            tally.blame(f"{step.name}: exit code {done.returncode}, of the forked child {code}: {done.stderr[-400:]!r}")
    tally.judge("the command itself", compare(state(own), state(forked)))
    shutil.rmtree(own.root)
    shutil.rmtree(forked.root)
    return tally


def _commits(db: Path) -> int:
    return len(list(db.glob("t.shards.lance/_versions/*.manifest")))
