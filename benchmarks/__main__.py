"""`python -m benchmarks`: every benchmark of this folder, one after the other, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

NOT_HERE = ("gpu", "fashion")  # needs a GPU; makes a table for another: run them by name


def main() -> int:
    modules = [p for p in sorted(Path(__file__).parent.glob("[a-z]*.py")) if "def main() " in p.read_text()]
    names = [p.stem for p in modules if p.stem not in NOT_HERE]
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed or missed a goal: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
