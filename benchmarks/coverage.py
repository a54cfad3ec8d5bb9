"""The command of the benchmarks that simulate how often intervals hold the truth."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.provenance import write


def simulate(
    doc: str | None,
    coverage: Callable[[Any, int, int], Any],
    designs: Mapping[str, Any],
    results: Path,
    *,
    sets: int,
    replicates: int,
) -> None:
    """Write and print `coverage(design, sets, replicates)` of each design; the options' defaults are given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", type=int, default=sets)
    parser.add_argument("--replicates", type=int, default=replicates)
    args = parser.parse_args()
    found = {name: coverage(design, args.sets, args.replicates) for name, design in designs.items()}
    write(results, {"sets": args.sets, "replicates": args.replicates, "designs": found})
    print(json.dumps(found, indent=1))
