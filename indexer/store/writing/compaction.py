"""Merges small fragments: each row is rewritten a bounded number of times, and full fragments never.

More than about a hundred fragments slow readers down, and every commit writes the list of all fragments. Small ones
are therefore merged; `newest_run` bounds how often a row is rewritten.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from typing import Any

from lance.optimize import Compaction, CompactionTask

from indexer.store.holding.commits import committing, fence_after_cleanup

COMPACT_FRAGMENTS = 64  # small fragments during a run that trigger a merge
RUN_FRAGMENTS = 8  # small fragments left unmerged at the end of a run
FULL_ROWS = 1_048_576  # target size of a merged fragment
SMALL_SHARE = 0.5  # of FULL_ROWS; a fragment with at least so many rows is not merged
GROWTH = 2  # a fragment is merged with the newer ones if it is at most this many times as large as all of them together
DELETED_SHARE = 0.1  # of a fragment's rows; with more deleted ones `compact_all` rewrites it
_ANY_ROWS = 1 << 40  # a target larger than any fragment
KEEP_VERSIONS = datetime.timedelta(days=1)
CLEAN_SECONDS = 3600.0  # between two clean-ups by one writer: each reads the manifests of all kept versions
MERGE = {  # copies pages without decoding where possible: a sixth of the memory, a quarter of the time
    "compaction_mode": "try_binary_copy",
    "batch_size": 1024,
    "num_threads": 1,
}


def small_rows() -> float:
    """The number of rows from which a fragment counts as full."""
    return FULL_ROWS * SMALL_SHARE


def newest_run(sizes: Sequence[int]) -> int:
    """How many of the newest fragments to merge, given the rows of each in the table's order; 0 for none.

    Going back from the newest, a fragment is included while it is small and at most GROWTH times as large as all newer
    ones together. A row's fragment grows by a factor of at least 1 + 1/GROWTH at each rewrite, so that a row is
    rewritten at most log(FULL_ROWS) / log(1 + 1/GROWTH) times, and about twice where commits have thousands of rows.
    """
    total = count = 0
    for rows in reversed(sizes):
        if rows >= small_rows() or (count and rows > GROWTH * total):
            break
        total, count = total + rows, count + 1
    return count if count > 1 else 0


def compact_newest(dataset: Any, most: int) -> bool:
    """Merge the newest small fragments where there are more than `most` small ones; returns whether any were merged."""
    fragments = _live(dataset)
    if sum(rows < small_rows() for _, rows, _ in fragments) <= most:
        return False
    count = newest_run([rows for _, rows, _ in fragments])
    return _merge(dataset, [[number for number, _, _ in fragments[-count:]]] if count else [])


def compact_all(dataset: Any, *, purge: bool = False) -> bool:
    """Merge every run of neighbouring small fragments, and rewrite those with many deleted rows, or (purge) any."""
    share = 0.0 if purge else DELETED_SHARE
    runs: list[list[int]] = [[]]
    lone: list[list[int]] = []
    for number, rows, deleted in _live(dataset):
        if rows < small_rows():
            runs[-1].append(number)
            if deleted > share * (rows + deleted):
                lone.append([number])
        else:
            runs.append([])
            if deleted > share * (rows + deleted):
                lone.append([number])
    merged = [run for run in runs if len(run) > 1]
    inside = {number for run in merged for number in run}
    return _merge(dataset, merged + [run for run in lone if run[0] not in inside])


def clean_up(dataset: Any, *, purge: bool = False) -> None:
    """Drop versions older than KEEP_VERSIONS without a tag, and the files that only they use.

    Readers may hold a version that long. The disk space of merged fragments is freed after the same time.
    With `purge` all versions but the newest and the tagged are dropped, and files that no version uses.
    """
    if purge:
        dataset.cleanup_old_versions(
            older_than=datetime.timedelta(0), delete_unverified=True, error_if_tagged_old_versions=False
        )
    else:
        dataset.cleanup_old_versions(older_than=KEEP_VERSIONS, error_if_tagged_old_versions=False)
    fence_after_cleanup(dataset)


def _live(dataset: Any) -> list[tuple[int, int, int]]:
    """(id, rows, deleted rows) of each fragment, in the table's order."""
    found = []
    for fragment in dataset.get_fragments():
        facts = fragment.metadata
        found.append((fragment.fragment_id, facts.physical_rows - facts.num_deletions, facts.num_deletions))
    return found


def _merge(dataset: Any, runs: list[list[int]]) -> bool:
    """Rewrite each run of fragments as one fragment, or as several of FULL_ROWS, in one commit; whether any was."""
    # Lance's planner takes every fragment below its target, so its task is reduced to the selected fragments
    wide = {**MERGE, "target_rows_per_fragment": _ANY_ROWS, "materialize_deletions_threshold": 0.0}
    plan = Compaction.plan(dataset, wide) if runs else None
    if plan is None or not plan.tasks:
        return False
    options = {**MERGE, "target_rows_per_fragment": FULL_ROWS}
    task = json.loads(plan.tasks[0].json())
    task["options"]["target_rows_per_fragment"] = FULL_ROWS
    by_id = {fragment.fragment_id: fragment.metadata.to_json() for fragment in dataset.get_fragments()}
    results = []
    for run in runs:
        task["task"]["fragments"] = [by_id[number] for number in run]
        results.append(CompactionTask.from_json(json.dumps(task)).execute(dataset))
    with committing(dataset):
        Compaction.commit(dataset, results, options)
    dataset.checkout_latest()  # the next commit by this handle would meet this one
    return True
