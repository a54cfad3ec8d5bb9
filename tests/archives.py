"""Tiny archives that tests make for themselves."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(seed: int, size: int = 24) -> np.ndarray:
    """A smooth random RGB picture (size, size, 3) uint8, different for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC))


def png(seed: int, size: int = 24) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, size)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return path


def shard(path: Path, seeds: list[int], metadata: dict[str, Any] | None = None) -> Path:
    """One image a seed, key `im<seed>`, with JSON metadata {"n": seed, "patient": "p<seed // 4>", ...}."""
    members: list[tuple[str, bytes]] = []
    for seed in seeds:
        facts = {"n": seed, "patient": f"p{seed // 4}", "sex": "FM"[seed % 2], **(metadata or {})}
        members += [(f"im{seed}.png", png(seed)), (f"im{seed}.json", json.dumps(facts).encode())]
    return write_tar(path, members)


def archive(root: Path, shards: int = 3, images: int = 10) -> Path:
    """`shards` shards of `images` images each under root/shards."""
    folder = root / "shards"
    folder.mkdir(parents=True)
    for s in range(shards):
        shard(folder / f"{s:03d}.tar", list(range(s * images, (s + 1) * images)))
    return folder
