"""The founding paper's claim measured: embed and probe against a CNN trained from scratch, in one run.

    python -m benchmarks.paper [--data digits|fashion] [--json]

Real labelled pictures that need no download: scikit-learn's handwritten digits, or Debian's dataset-fashion-mnist. Both
sides get the same train, val and test pictures. The one side is two commands, `indexer index` and `probes linear`, with
their start-up; the other torchvision's ResNet-18 (Adam, the epoch of the best val AUC), scored when it has used as many
processor seconds as the commands, and again when val has not improved for PATIENCE epochs. Processor seconds change
little on a busy machine; the clock does.
"""

from __future__ import annotations

import argparse
import copy
import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from indexer.children import environment, python_command

ENCODER = "efficientnet-lite0"  # its weights come as a package
SIDE, BATCH, RATE, PATIENCE, MOST_EPOCHS = 32, 32, 1e-3, 5, 60
FASHION = Path("/usr/share/datasets/fashion-mnist")


def pictures(data: str, folder: Path) -> tuple[Any, Any]:
    """(n, h, w) uint8 and classes (n,)."""
    if data == "digits":
        digits = load_digits()
        return np.rint(digits.images * 255 / 16).astype(np.uint8), digits.target
    with (
        gzip.open(folder / "train-images-idx3-ubyte.gz") as images,
        gzip.open(folder / "train-labels-idx1-ubyte.gz") as y,
    ):
        return np.frombuffer(images.read(), np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(
            y.read(), np.uint8, offset=8
        )


def split(x: Any, y: Any, sizes: dict[str, int], seed: int) -> dict[str, tuple[Any, Any]]:
    order, parts = np.random.default_rng(seed).permutation(len(x)), {}
    for name, n in sizes.items():
        rows, order = order[:n], order[n:]
        parts[name] = x[rows], y[rows].astype(np.int64)
    return parts


def spent(who: int) -> float:
    used = resource.getrusage(who)
    return used.ru_utime + used.ru_stime


def macro_auc(y: Any, p: Any) -> float:
    return float(np.mean([roc_auc_score(y == c, p[:, c]) for c in range(p.shape[1])]))


def embed_and_probe(parts: dict[str, tuple[Any, Any]], folder: Path) -> tuple[float, float, float]:
    """AUC, processor seconds and seconds by the clock of the two commands."""
    arrays = {f"{name}_images": x for name, (x, _) in parts.items()} | {f"{n}_labels": y for n, (_, y) in parts.items()}
    np.savez(folder / "set.npz", **arrays)
    commands = (
        ("indexer", "index", "set.npz", "db", "--encoder", ENCODER, "--device", "cpu"),
        ("probes", "linear", "db", "--label", "label", "--group", "none", "--split", "split", "--out", "out"),
    )
    start, before = time.perf_counter(), spent(resource.RUSAGE_CHILDREN)
    for program, *arguments in commands:
        subprocess.run(
            python_command(program, *arguments), cwd=folder, check=True, env=environment(), stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
    seconds = spent(resource.RUSAGE_CHILDREN) - before, time.perf_counter() - start
    rows = pq.read_table(folder / "out" / "predictions.parquet").to_pydict()
    classes = sorted({int(t) for t in rows["true"]})
    p = np.stack([rows[f"p({c})"] for c in classes], 1)
    return macro_auc(np.array(rows["true"], int), p), *seconds


@dataclass
class Training:
    """What training reached at one moment."""

    auc: float
    epochs: int
    seconds: float
    clock: float


def train(parts: dict[str, tuple[Any, Any]], budget: float, seed: int) -> tuple[Training, Training]:
    """At `budget` processor seconds (or at convergence, where that comes first), and at convergence."""
    import torch
    from torch.nn import functional
    from torchvision.models import resnet18

    torch.manual_seed(seed)
    classes = int(max(y.max() for _, y in parts.values())) + 1
    ready = {name: (_tensor(torch, functional, x), torch.from_numpy(y)) for name, (x, y) in parts.items()}
    net = resnet18(num_classes=classes)
    optimiser = torch.optim.Adam(net.parameters(), RATE)
    x, y = ready["train"]
    best, state, waited, epoch, at_budget = -1.0, copy.deepcopy(net.state_dict()), 0, 0, None
    start, before = time.perf_counter(), spent(resource.RUSAGE_SELF)

    def reached() -> Training:
        own = copy.deepcopy(net.state_dict())
        used, clock = spent(resource.RUSAGE_SELF) - before, time.perf_counter() - start
        net.load_state_dict(state)
        auc = _auc(torch, net, *ready["test"])
        net.load_state_dict(own)
        return Training(auc, epoch, used, clock)

    while waited < PATIENCE and epoch < MOST_EPOCHS:
        net.train()
        for rows in torch.randperm(len(x)).split(BATCH):
            optimiser.zero_grad()
            functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
        epoch += 1
        auc = _auc(torch, net, *ready["val"])
        waited = 0 if auc > best else waited + 1
        if auc > best:
            best, state = auc, copy.deepcopy(net.state_dict())
        if at_budget is None and spent(resource.RUSAGE_SELF) - before >= budget:
            at_budget = reached()
    done = reached()
    return at_budget or done, done


def _tensor(torch: Any, functional: Any, x: Any) -> Any:
    grey = torch.from_numpy(x.copy()).float()[:, None] / 255 - 0.5
    return functional.interpolate(grey, SIDE, mode="bilinear", antialias=True).expand(-1, 3, -1, -1).contiguous()


def _auc(torch: Any, net: Any, x: Any, y: Any) -> float:
    net.eval()
    with torch.inference_mode():
        p = torch.cat([net(block).softmax(1) for block in x.split(256)])
    return macro_auc(y.numpy(), p.numpy())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", choices=["digits", "fashion"], default="digits")
    parser.add_argument("--fashion", type=Path, default=FASHION, help="folder of the idx files")
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--val", type=int, default=200)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    sizes = {"train": args.train, "val": args.val, "test": args.test}
    parts = split(*pictures(args.data, args.fashion), sizes, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        auc, seconds, clock = embed_and_probe(parts, Path(folder))
    equal, done = train(parts, seconds, args.seed)
    found = {
        "data": args.data, **sizes, "classes": len(np.unique(parts["test"][1])),
        "auc_probe": auc, "auc_trained": done.auc, "auc_trained_equal_time": equal.auc,
        "seconds_embed_and_probe": round(seconds, 1), "seconds_training": round(done.seconds, 1),  # of the processor
        "clock_embed_and_probe": round(clock, 1), "clock_training": round(done.clock, 1),
        "epochs": done.epochs, "epochs_equal_time": equal.epochs, "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    if args.json:
        print(json.dumps(found))
        return 0
    print(
        f"{args.data}: {args.train} pictures to train on, {found['classes']} classes, macro AUC of {args.test} in test"
    )
    print(f"embed and probe            {auc:.4f}  {seconds:7.1f} processor seconds")
    print(f"ResNet-18, same seconds    {equal.auc:.4f}  {equal.seconds:7.1f}  ({equal.epochs} epochs)")
    print(f"ResNet-18, to convergence  {done.auc:.4f}  {done.seconds:7.1f}  ({done.epochs} epochs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
