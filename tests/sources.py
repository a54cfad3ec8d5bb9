"""The same pictures as every kind of source, each written by the library that users have."""

from __future__ import annotations

import csv
import gzip
import json
import struct
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


def as_datasets(path: Path, n: int) -> Path:
    """As `datasets` writes it: an Image feature, and its features in the schema's metadata."""
    from datasets import Dataset, Features, Image, Value

    kinds = {"split": "string", "label": "int64", "age": "float64", "site": "string"}
    features = Features({"image": Image(), **{name: Value(kind) for name, kind in kinds.items()}})
    images = [{"bytes": ppm(pixel), "path": None} for pixel in pixels(n)]
    rows = [{"image": image, **facts} for image, facts in zip(images, fields(n), strict=True)]
    Dataset.from_list(rows, features=features).to_parquet(str(path), batch_size=7)
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


def as_lmdb(path: Path, n: int) -> Path:
    """One file, as `lmdb.open(subdir=False)` writes it: images and the JSON beside them under a folder's names."""
    import lmdb

    folder = as_folder(path.parent / "of-lmdb", n)
    with lmdb.open(str(path), map_size=1 << 26, subdir=False) as database, database.begin(write=True) as change:
        for file in sorted(folder.iterdir()):
            change.put(file.name.encode(), file.read_bytes())
    return path


def mds_file(path: Path, rows: list[dict[str, tuple[str, Any]]], compress: str = "") -> Path:
    """A shard by the layout of streaming's MDSWriter: samples of column → (encoding, value), values that are no bytes
    in the encoding's own form."""
    path.parent.mkdir(parents=True, exist_ok=True)
    formats = {"int": "q", "float32": "f", "float64": "d", "uint8": "B"}
    names = sorted(rows[0])
    encodings = [rows[0][name][0] for name in names]
    sizes = [struct.calcsize(formats[e]) if e in formats else None for e in encodings]
    samples = []
    for row in rows:
        data = [
            struct.pack(f"<{formats[e]}", row[n][1])
            if e in formats
            else v
            if isinstance(v := row[n][1], bytes)
            else v.encode()
            for n, e in zip(names, encodings, strict=True)
        ]
        head = b"".join(struct.pack("<I", len(d)) for d, size in zip(data, sizes, strict=True) if size is None)
        samples.append(head + b"".join(data))
    facts = {
        "column_encodings": encodings, "column_names": names, "column_sizes": sizes, "compression": compress or None,
        "format": "mds", "hashes": [], "size_limit": 1 << 26, "version": 2,
    }  # fmt: skip
    config = json.dumps(facts, sort_keys=True).encode()
    offsets = np.cumsum([0, *map(len, samples)]) + 4 + 4 * (len(samples) + 1) + len(config)
    whole = struct.pack("<I", len(samples)) + offsets.astype("<u4").tobytes() + config + b"".join(samples)
    if compress:
        path = path.with_name(f"{path.name}.{compress}")
        whole = gzip.compress(whole) if compress == "gz" else bytes(pa.compress(whole, "zstd", asbytes=True))
    path.write_bytes(whole)
    return path


def as_mds(path: Path, n: int) -> Path:
    forms = {"split": "str", "label": "int", "age": "float64", "site": "str"}
    return mds_file(path, [
        {"image": ("bytes", ppm(pixel)), **{name: (form, facts[name]) for name, form in forms.items()}}
        for pixel, facts in zip(pixels(n), fields(n), strict=True)
    ])  # fmt: skip
