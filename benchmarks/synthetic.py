"""Seeded JPEG archives that cost what photographs cost: 1/f texture plus structure, 40–300 KB at 512 and 1024 px."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg

SIDES = (512, 1024)
QUALITY = {512: 85, 1024: 60}
CANVASES = 6  # large textures that pictures are cut from; making one takes longer than cutting a hundred
SHARD_IMAGES = 250


def canvas(seed: int, side: int = 1536) -> np.ndarray:
    """(side, side, 3) uint8: a 1/f field shared by the channels, a little of its own in each, and hard-edged shapes."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]) + 1 / side
    fields = [
        np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) / frequency, s=(side, side)) for _ in range(4)
    ]
    shared, *own = (f / f.std() for f in fields)
    contrast = rng.uniform(0.3, 1.0)  # file sizes spread with it
    picture = np.stack([110 + contrast * (45 * shared + 12 * f) for f in own], axis=-1)
    for _ in range(40):
        y, x = rng.integers(0, side, 2)
        h, w = rng.integers(20, 300, 2)
        picture[y : y + h, x : x + w] += rng.normal(0, 35, 3)
    return np.clip(picture, 0, 255).astype(np.uint8)


def jpegs(count: int, sides: tuple[int, ...] = SIDES, seed: int = 0) -> Iterator[bytes]:
    """`count` different pictures, the sides in turn."""
    rng = np.random.default_rng(seed)
    canvases = [canvas(seed * 1000 + i) for i in range(min(CANVASES, count))]
    for i in range(count):
        side = sides[i % len(sides)]
        source = canvases[i % len(canvases)]
        y, x = rng.integers(0, source.shape[0] - side + 1, 2)
        cut = source[y : y + side, x : x + side]
        if rng.random() < 0.5:
            cut = cut[:, ::-1]
        yield simplejpeg.encode_jpeg(np.ascontiguousarray(cut), QUALITY[side], "RGB", "420")


def shards(folder: Path, count: int, sides: tuple[int, ...] = SIDES, seed: int = 0) -> list[Path]:
    """WebDataset shards of `count` pictures with JSON metadata; those that are there already are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:05d}.tar" for i in range(-(-count // SHARD_IMAGES))]
    done = folder / "done.json"
    facts = {"count": count, "sides": list(sides), "seed": seed, "shard": SHARD_IMAGES}
    if done.is_file() and json.loads(done.read_text()) == facts:
        return paths
    pictures = jpegs(count, sides, seed)
    for number, path in enumerate(paths):
        with tarfile.open(path, "w") as archive:
            for i in range(number * SHARD_IMAGES, min((number + 1) * SHARD_IMAGES, count)):
                _add(archive, f"{i:08d}.jpg", next(pictures))
                _add(archive, f"{i:08d}.json", json.dumps({"n": i, "patient": f"p{i // 5}"}).encode())
    done.write_text(json.dumps(facts))
    return paths


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(data)
    archive.addfile(header, io.BytesIO(data))
