"""A table of real images for `benchmarks.search --table`: Fashion-MNIST by the bundled encoder.

`python -m benchmarks.fashion DB [--images N]` embeds the pictures of Debian's package dataset-fashion-mnist (70,000 of
28 px), training pictures first.
"""

from __future__ import annotations

import argparse
import gzip
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

FOLDER = Path("/usr/share/datasets/fashion-mnist")
HEADER = 16  # bytes of an idx3 file: magic, count, height, width
SIDE = 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("database")
    parser.add_argument("--images", type=int, default=70_000)
    args = parser.parse_args()
    if not FOLDER.is_dir():
        sys.exit(f"{FOLDER} is missing: apt-get install dataset-fashion-mnist")
    pictures = np.concatenate([idx(FOLDER / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k")])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "fashion.npz"
        np.savez(path, train_images=pictures[: args.images], train_labels=np.zeros(len(pictures[: args.images]), int))
        subprocess.run([sys.executable, "-m", "indexer", "index", str(path), args.database], check=True)


def idx(path: Path) -> np.ndarray:
    """(n, 28, 28) uint8"""
    data = gzip.decompress(path.read_bytes())
    return np.frombuffer(data, np.uint8, offset=HEADER).reshape(-1, SIDE, SIDE)


if __name__ == "__main__":
    main()
