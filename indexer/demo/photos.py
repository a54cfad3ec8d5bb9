"""Labelled pictures for the tour of README.md: `python -m indexer.demo.photos tour`. Nothing is downloaded."""

from __future__ import annotations

import csv
from pathlib import Path

import click
import numpy as np
from PIL import Image

from indexer.errors import InputError
from indexer.options import run
from indexer.types import UInt8

COLOURS = {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}
PICTURES = 90
PER_PATIENT = 3
SIDE = 64  # pixels


def picture(rng: np.random.Generator, colour: str) -> UInt8:
    """Noise around one colour (SIDE, SIDE, 3)."""
    return np.clip(rng.normal(COLOURS[colour], 30, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def write_tour(folder: Path) -> None:
    """Write `photos/im00.png` … `im89.png`, `labels.csv` (key, colour, patient) and `query.png`, equal in every call.

    Raises InputError where the folder exists already.
    """
    if folder.exists():
        raise InputError(f"{folder} exists. Remove it, or name another folder.")
    (folder / "photos").mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(PICTURES):
        colour = list(COLOURS)[number % len(COLOURS)]
        Image.fromarray(picture(rng, colour)).save(folder / "photos" / f"im{number:02d}.png")
        rows.append((f"im{number:02d}", colour, f"p{number // PER_PATIENT:02d}"))
    Image.fromarray(picture(rng, "red")).save(folder / "query.png")
    with (folder / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("key", "colour", "patient"), *rows])


@click.command("photos", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(path_type=Path))
def photos(folder: Path) -> None:
    """Write 90 small labelled pictures of 30 pretended patients, and a query, into a new FOLDER."""
    write_tour(folder)
    click.echo(f"{folder}: {PICTURES} pictures in photos, their labels in labels.csv, and query.png")


if __name__ == "__main__":
    run(photos)
