"""A command line on a machine where some Python packages are not installed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]

HIDE = """
import importlib.machinery, os
hidden = set(os.environ["HIDDEN"].split())
find = importlib.machinery.PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in hidden else find(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(find_spec)  # dill asks an instance
"""


def without(tmp_path: Path, modules: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`indexer …` on a machine that lacks `modules` (names with spaces between), in every process it starts."""
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}", "HIDDEN": modules}
    command = [sys.executable, "-m", "indexer", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment)
