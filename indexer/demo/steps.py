"""The steps of a demo: its folder, and commands as a user types them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import click

from indexer.children import environment, python_command
from indexer.errors import IndexerError

MARKER = ".indexer-demo"


def fresh_folder(out: Path) -> None:
    """An empty folder in place of a former demo's. Raises IndexerError where something else lies there."""
    if out.exists() and not (out / MARKER).exists():
        raise IndexerError(f"{out} exists and is not a former demo's. Name another folder with --out.")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / MARKER).touch()


def step(program: str, *arguments: str, capture: bool = False) -> str:
    """Run one of this package's commands in a child process, and print it."""
    shown = " ".join(
        a if a.replace("/", "").replace("-", "").replace(".", "").isalnum() else f'"{a}"' for a in arguments
    )
    if not capture:
        click.secho(f"\n$ {program} {shown}", bold=True)
    done = subprocess.run(  # commands of this package, no shell
        python_command(program, *arguments),
        env=environment(),
        stdout=subprocess.PIPE if capture else None,
        text=True,
        check=False,
    )
    if done.returncode:
        raise IndexerError(f"`{program} {shown}` ended with exit code {done.returncode}; see its message above.")
    return done.stdout or ""
