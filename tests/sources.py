"""The same pictures as every kind of source, each written by the library that users have."""

from __future__ import annotations

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.archives import picture, write_tar

SIDE = 24


def pixels(n: int, side: int = SIDE) -> np.ndarray:
    """(n, side, side, 3) uint8"""
    return np.stack([picture(i, side) for i in range(n)])


def ppm(pixel: np.ndarray) -> bytes:
    """A PPM file as netpbm's manual defines it; the only form of these pixels with one header."""
    return b"P6\n%d %d\n255\n" % pixel.shape[1::-1] + pixel.tobytes()


def fields(n: int) -> list[dict[str, Any]]:
    return [{"split": "train", "label": i % 3, "age": 40.5 + i, "site": "ab"[i % 2]} for i in range(n)]


def as_folder(root: Path, n: int) -> Path:
    for i, (pixel, facts) in enumerate(zip(pixels(n), fields(n), strict=True)):
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{i:02d}.ppm").write_bytes(ppm(pixel))
        (root / f"{i:02d}.json").write_text(json.dumps(facts))
    return root


def as_tar(path: Path, n: int) -> Path:
    folder = as_folder(path.parent / "of-tar", n)
    return write_tar(path, [(f.name, f.read_bytes()) for f in sorted(folder.iterdir())])


def as_zip(path: Path, n: int) -> Path:
    folder = as_folder(path.parent / "of-zip", n)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def as_parquet(path: Path, n: int, form: str = "struct", rows: int = 7, **options: Any) -> Path:
    """`form`: the struct of Hugging Face's `Image` feature, plain bytes, or paths of files beside the table."""
    data = [ppm(pixel) for pixel in pixels(n)]
    if form == "struct":
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        image = pa.array([{"bytes": d, "path": None} for d in data], kind)
    elif form == "bytes":
        image = pa.array(data, pa.binary())
    else:
        as_folder(path.parent / "files", n)
        image = pa.array([f"files/{i:02d}.ppm" for i in range(n)])
    columns = {name: [row[name] for row in fields(n)] for name in fields(1)[0]}
    pq.write_table(pa.table({"image": image, **columns}), path, row_group_size=rows, **options)
    return path


def as_npz(path: Path, n: int) -> Path:
    facts = fields(n)
    arrays = {"train_images": pixels(n), "train_labels": np.array([[f["label"]] for f in facts])}
    arrays |= {f"train_{name}": np.array([f[name] for f in facts]) for name in ("age", "site")}
    np.savez_compressed(path, **arrays)
    return path


def as_csv(path: Path, n: int) -> Path:
    as_folder(path.parent / "listed", n)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["file", *fields(1)[0]])
        writer.writeheader()
        writer.writerows({"file": f"listed/{i:02d}.ppm", **facts} for i, facts in enumerate(fields(n)))
    return path
