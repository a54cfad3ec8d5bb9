"""An array job of a real Slurm, whose tasks are cancelled, killed and requeued while they work."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from indexer.archive.shards import find_shards
from indexer.pipeline.run import index
from indexer.store.pending.place import pending_place
from indexer.store.table import EmbeddingStore
from tests.cluster import slurm
from tests.cluster.truth import contents, odd_archive
from tests.fakes import FakeEncoder

PARTS, FAULTS, HUNG_SECONDS = 16, 40, 1000.0
KIND = "Slurm: scancel, kill -9 and requeue of the tasks of an array of 16 parts"
SCRIPT = """#!/bin/sh
echo $$ > {root}/pid-$SLURM_ARRAY_TASK_ID
cd {house} && PYTHONPATH={house} {python} -m tests.cluster.part {database} {archive} $SLURM_ARRAY_TASK_ID/{parts} \\
  --seconds 0.05 > {root}/out-$SLURM_ARRAY_TASK_ID 2>&1 && touch {root}/done-$SLURM_ARRAY_TASK_ID
"""


def disturb(cluster: slurm.Slurm, task: slurm.Task, fault: str, root: Path) -> None:
    if fault == "cancel":
        cluster.call("scancel", task.job, check=False)
    elif fault == "requeue":
        cluster.call("scontrol", "requeue", task.job, check=False)
    else:
        with suppress(OSError, ValueError):
            shell = int((root / f"pid-{task.index}").read_text())
            for child in Path(f"/proc/{shell}/task/{shell}/children").read_text().split():
                os.kill(int(child), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing() or "-")
def test_an_array_of_16_parts_through_40_cancellations_kills_and_requeues_equals_one_run(
    tmp_path, request, fault
) -> None:
    archive, draw = odd_archive(tmp_path, shards=40, images=4), random.Random(40)
    encoder = FakeEncoder()
    store = EmbeddingStore.create(str(tmp_path / "truth"), "fake", encoder.spec)
    index(find_shards([str(archive)]).shards, store, encoder)
    root, database = tmp_path / "slurm", str(tmp_path / "db")
    root.mkdir()
    script, house = root / "job.sh", request.config.rootpath
    facts = {"root": root, "house": house, "python": sys.executable, "database": database, "archive": archive}
    script.write_text(SCRIPT.format(parts=PARTS, **facts))
    faults = Counter[str]()
    with slurm.running(root) as cluster:
        cluster.submit(script, f"0-{PARTS - 1}")
        end = time.monotonic() + HUNG_SECONDS
        while True:
            if time.monotonic() > end:
                with fault.unless_hung(KIND):
                    raise TimeoutError(f"{cluster.tasks()} {faults}")
            queue = cluster.tasks()
            working = [task for task in queue if task.state == "RUNNING"]
            done = {int(path.name.removeprefix("done-")) for path in root.glob("done-*")}
            if faults.total() < FAULTS and working:
                time.sleep(draw.uniform(0.0, 3.0))
                chosen = draw.choice(["cancel", "kill", "requeue"])
                disturb(cluster, draw.choice(working), chosen, root)
                faults[chosen] += 1
            queued = {task.index for task in queue}
            lost = sorted(set(range(PARTS)) - done - queued)
            if lost and queue == cluster.tasks():  # whoever runs an array submits again what failed
                cluster.submit(script, ",".join(map(str, lost)))
            if len(done) == PARTS and not queue:
                if faults.total() >= FAULTS:
                    break
                for path in root.glob("done-*"):  # faults are left: everything once more
                    path.unlink()
                cluster.submit(script, f"0-{PARTS - 1}")
            time.sleep(0.3)
    fault(KIND, contents(database), contents(str(tmp_path / "truth")), faults=faults.total(), runs=PARTS)
    assert not pending_place(EmbeddingStore.open(database)).names()
