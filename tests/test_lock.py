"""The constraints file names every package that the project installs with, in a version that the project allows."""

from __future__ import annotations

import subprocess
import sys

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.lock import LOCK, PROJECT, PYPROJECT, closure, locked, project

LOCKED = locked(LOCK.read_text(encoding="utf-8"))


def direct():
    requirements = [Requirement(text) for texts in project(PYPROJECT).values() for text in texts]
    return [r for r in requirements if canonicalize_name(r.name) != PROJECT]


def test_each_requirement_of_the_project_is_locked_in_a_version_that_it_allows():
    wrong = {r.name for r in direct() if not r.specifier.contains(LOCKED.get(canonicalize_name(r.name), "0"))}
    assert wrong == set(), "make lock"
    assert len(LOCKED) > len(direct())


def test_each_package_that_these_need_in_turn_is_locked_too():
    assert closure().keys() - LOCKED.keys() == set(), "make lock"


def test_every_line_is_a_plain_version_and_no_address():
    lines = [line for line in LOCK.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(lines) == len(LOCKED)
    assert all(Version(version).local is None for version in LOCKED.values())


def test_the_lock_is_what_its_module_writes():
    done = subprocess.run([sys.executable, "-m", "tests.lock"], capture_output=True, text=True, check=True)
    assert locked(done.stdout).keys() == closure().keys()
