"""The versions that the tests passed with: the `dev` extra and all that it needs, as a pip constraints file.

`python -m tests.lock > tests/constraints.txt` writes what is installed now; `make lock` upgrades everything first.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT, EXTRAS = "embedding-indexer", frozenset({"dev"})
PYPROJECT, LOCK = Path(__file__).parents[1] / "pyproject.toml", Path(__file__).with_name("constraints.txt")
HEADER = """\
# All versions, direct and transitive, that the tests passed with. `make install` installs these; `make lock`
# refreshes them. Users' installs are bound by the lower limits of pyproject.toml alone.
"""


def project(pyproject: Path) -> dict[str, list[str]]:
    """Extra → its requirements, as pyproject.toml writes them; "" is the project without extras."""
    facts = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    return {"": facts["dependencies"], **facts["optional-dependencies"]}


def applying(requirements: Sequence[str], extras: frozenset[str]) -> list[Requirement]:
    """Of these, the ones whose markers hold on this machine with these extras of the package that asks."""
    parsed = map(Requirement, requirements)
    return [r for r in parsed if r.marker is None or any(r.marker.evaluate({"extra": e}) for e in extras or {""})]


def closure() -> dict[str, str]:
    """Canonical name → installed version of all that the project needs. Raises PackageNotFoundError."""
    own = project(PYPROJECT)
    waiting = [(PROJECT, EXTRAS)]
    seen: set[tuple[str, frozenset[str]]] = set()
    found: dict[str, str] = {}
    while waiting:
        name, extras = asked = waiting.pop()
        if asked in seen:
            continue
        seen.add(asked)
        if name == PROJECT:
            requirements = [text for extra in ("", *extras) for text in own[extra]]
        else:
            found[name] = distribution(name).version
            requirements = distribution(name).requires or []
        waiting += [(canonicalize_name(r.name), frozenset(r.extras)) for r in applying(requirements, extras)]
    return found


def locked(text: str) -> dict[str, str]:
    """Canonical name → version of a constraints file's lines."""
    lines = re.findall(r"^([^#\s]+?)==(\S+)$", text, re.MULTILINE)
    return {canonicalize_name(name): version for name, version in lines}


def main() -> None:
    try:
        found = closure()
    except PackageNotFoundError as error:
        sys.exit(f"{error.name} is not installed. Install everything first: make install")
    sys.stdout.write(HEADER + "".join(f"{name}=={found[name]}\n" for name in sorted(found)))


if __name__ == "__main__":
    main()
