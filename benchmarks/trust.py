"""How often do the 95 % intervals of a report hold the truth, by patients, prevalence, clustering and metric?

By simulation (`trust_sets`). The table is data of the package (`probes/evaluation/certainty/coverage.json`): a report
quotes it at its intervals (D29). Drops to other patients are of pairs of successive data sets. Designs of which the
file has every metric already are not run again without --anew, so that a run may be stopped and go on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import probes.evaluation.certainty as home
from benchmarks.intervals import Design
from benchmarks.provenance import provenance
from benchmarks.trust_sets import FALLS, intervals, truths
from probes.evaluation.bootstrap import Interval
from probes.evaluation.external.drop import drop

RESULTS = Path(home.__path__[0]) / "coverage.json"
PATIENTS, PREVALENCES, AREAS = (20, 50, 100, 300), (0.1, 0.3), (0.75, 0.92)
CLUSTERS = ((1, 0.0), (4, 0.5), (4, 0.9))  # most images a patient, share of the variance that is the patient's
FACTS = ("patients", "prevalence", "images", "of_patient", "auc")


def designs() -> list[Design]:
    return [
        Design(patients, images, prevalence, area, share)
        for patients, prevalence, (images, share), area in product(PATIENTS, PREVALENCES, CLUSTERS, AREAS)
    ]


def coverage(design: Design, sets: int, replicates: int) -> dict[str, float]:
    """Metric → per cent of data sets whose interval holds the truth; an interval that is not defined does not count."""
    truth, counts = truths(design.prevalence, design.auc), dict[str, list[bool]]()
    for name, found in _found(design, sets, replicates):
        if found.low == found.low:
            counts.setdefault(name.partition(" ")[0], []).append(found.low <= truth[name] <= found.high)
    return {name: round(100 * float(np.mean(each)), 1) for name, each in counts.items()}


def _found(design: Design, sets: int, replicates: int) -> Iterator[tuple[str, Interval]]:
    before: dict[str, Interval] = {}
    truth = truths(design.prevalence, design.auc)
    for seed in range(sets):
        found = intervals(design, seed, replicates)
        yield from ((name, value) for name, value in found.items() if name in truth)
        if found and before:
            yield from ((f"drop_{name}", drop(before[name], found[name])) for name in FALLS)
        before = found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=200)
    parser.add_argument("--replicates", type=int, default=200)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--designs", type=int, help="at most so many in this run; the next goes on")
    parser.add_argument("--anew", action="store_true")
    args = parser.parse_args()
    stored = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() and not args.anew else None
    if stored is not None and (stored["sets"], stored["replicates"]) != (args.sets, args.replicates):
        parser.error(f"{RESULTS} is of {stored['sets']} sets and {stored['replicates']} replicates: add --anew.")
    known = {tuple(d[name] for name in FACTS): d["coverage"] for d in (stored["designs"] if stored else [])}
    whole = {name.partition(" ")[0] for name in truths(PREVALENCES[-1], AREAS[0])}
    left = [d for d in designs() if not whole <= set(known.get(_facts(d), ()))][: args.designs]
    with ProcessPoolExecutor(args.processes) as pool:
        work = partial(coverage, sets=args.sets, replicates=args.replicates)
        for design, own in zip(left, pool.map(work, left), strict=True):
            known[_facts(design)] = own
            _write(known, args.sets, args.replicates)
            print(_facts(design), own, flush=True)


def _facts(design: Design) -> tuple[Any, ...]:
    return tuple(getattr(design, name) for name in FACTS)


def _write(known: dict[tuple[Any, ...], dict[str, float]], sets: int, replicates: int) -> None:
    """In the order of `designs`."""
    rows = [
        {**dict(zip(FACTS, _facts(d), strict=True)), "coverage": known[_facts(d)]}
        for d in designs()
        if _facts(d) in known
    ]
    lines = ",\n".join(json.dumps(row) for row in rows)
    facts = json.dumps({"sets": sets, "replicates": replicates, **provenance()})
    RESULTS.write_text(f'{facts[:-1]}, "designs": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main()
