"""Every state that a power failure may leave of a recorded life: `python -m tests.power [--seed N] [--share 1.0]`."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from tests.power.part import part
from tests.power.strace import available

PARTS = 2  # processes, each with a life of its own


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.power", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--share", type=float, default=1.0, help="of the states, drawn by the seed")
    options = parser.parse_args()
    if not available():
        print("the power-loss replay needs strace and the right to trace")  # noqa: T201 - the report
        return 1
    started = time.monotonic()
    with ProcessPoolExecutor(PARTS, mp_context=get_context("spawn")) as pool:
        found = list(pool.map(part, range(PARTS), [PARTS] * PARTS, [options.seed] * PARTS, [options.share] * PARTS))
    for text in (text for one in found for text in one.troubled):
        print(text)  # noqa: T201
    variants = sum((one.variants for one in found), Counter())
    states, wrong = sum(one.states for one in found), sum(len(one.troubled) for one in found)
    kinds = ", ".join(f"{kind} {n}" for kind, n in variants.most_common())
    print(f"power loss: {found[0].calls} calls recorded, {states} states ({kinds}), {wrong} wrong")  # noqa: T201
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")  # noqa: T201
    return 1 if wrong or not states else 0


if __name__ == "__main__":
    sys.exit(main())
