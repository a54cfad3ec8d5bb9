"""Slides of two classes, cut from one real picture of stained tissue: no two slides share a pixel of it."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from indexer.types import Bool, Float64, UInt8

WIDTH, HEIGHT = 1280, 1024  # pixels of level 0
LEVELS = 3
MPP = 0.5  # micrometres a pixel: stated in the files, not measured
ACROSS, DOWN = 4, 8  # cuts of the picture: the most slides that there can be
ZOOM = 3  # a cut's sides are then no multiples of a tile's, so that the tiles of a slide differ
BROWN = {"strong": (0.7, 1.0), "weak": (0.0, 0.2)}  # part of the brown dye that is left, drawn for each slide
BLUE = (1.1, 1.5)  # the other dye varies in both classes alike
GLASS = 244  # grey level of the ground


@dataclass(frozen=True)
class Slide:
    """One slide: its name, its class, and the mean colour of its tissue (3,)."""

    name: str
    brown: str
    colour: Float64


def write_slides(folder: Path, *, slides: int = ACROSS * DOWN, seed: int = 0) -> list[Slide]:
    """Write `slide-00.tif` … as tiled pyramids, and `slides.csv` (slide, brown) beside them.

    Each has one of the cuts of scikit-image's picture of a section with two dyes, laid out in mirrored copies on glass;
    of every two neighbours one is of each class. `slides` is at most ACROSS * DOWN.
    """
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    written = []
    for number, dyes in enumerate(_cuts()[:slides]):
        brown = tuple(BROWN)[(number + number // ACROSS) % 2]
        blob = _blob(rng)
        picture = _slide(dyes, (rng.uniform(*BLUE), rng.uniform(*BROWN[brown])), blob, rng)
        written.append(Slide(f"slide-{number:02d}", brown, picture[blob].mean(axis=0)))
        _write(folder / f"slide-{number:02d}.tif", picture)
    with (folder / "slides.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("slide", "brown"), *((slide.name, slide.brown) for slide in written)])
    return written


def _cuts() -> list[Float64]:
    """Amounts of the dyes (h, w, 3): haematoxylin, eosin, diaminobenzidine; of each cut, enlarged by ZOOM."""
    from skimage import color, data, transform

    dyes = color.rgb2hed(data.immunohistochemistry())
    high, wide = dyes.shape[0] // DOWN, dyes.shape[1] // ACROSS
    return [
        transform.resize(dyes[y : y + high, x : x + wide], (ZOOM * high, ZOOM * wide), order=1, mode="reflect")
        for y in range(0, DOWN * high, high)
        for x in range(0, ACROSS * wide, wide)
    ]


def _slide(dyes: Float64, strengths: Sequence[float], blob: Bool, rng: np.random.Generator) -> UInt8:
    """(HEIGHT, WIDTH, 3): tissue in these strengths of blue and brown, inside the blob, on glass."""
    from skimage import color

    tissue = (color.hed2rgb(dyes * (strengths[0], 1.0, strengths[1])) * 255).round()
    high, wide = tissue.shape[:2]
    after = [(-HEIGHT) % high + HEIGHT - high, (-WIDTH) % wide + WIDTH - wide]
    tiled = np.pad(tissue, ((0, after[0]), (0, after[1]), (0, 0)), mode="symmetric")[:HEIGHT, :WIDTH]
    glass = GLASS + rng.integers(0, 4, (HEIGHT, WIDTH, 1))
    return np.where(blob[..., None], tiled, glass).astype(np.uint8)


def _blob(rng: np.random.Generator) -> Bool:
    """(HEIGHT, WIDTH): the outline of a section, a circle whose radius waves."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    y, x = (y - HEIGHT / 2) / (HEIGHT / 2), (x - WIDTH / 2) / (WIDTH / 2)
    angle, radius = np.arctan2(y, x), np.hypot(y, x)
    waves = sum(rng.uniform(0, 0.09) * np.sin(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 5))
    return np.asarray(radius < 0.8 + waves, dtype=np.bool_)


def _write(path: Path, picture: UInt8) -> None:
    """A tiled pyramid with its resolution in pixels a centimetre."""
    import tifffile

    with tifffile.TiffWriter(path) as out:
        for number in range(LEVELS):
            scale = 1e4 / (MPP * 2**number)
            out.write(
                picture, tile=(256, 256), compression="deflate", photometric="rgb", metadata=None,
                resolution=(scale, scale), resolutionunit="CENTIMETER", subfiletype=int(number > 0),
            )  # fmt: skip
            h, w = picture.shape[0] // 2, picture.shape[1] // 2
            picture = (picture.reshape(h, 2, w, 2, 3).mean(axis=(1, 3)) + 0.5).astype(np.uint8)
