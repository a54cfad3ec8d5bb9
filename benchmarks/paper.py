"""The founding paper's claim measured: embed and probe against training a CNN, in one run.

    python -m benchmarks.paper [--data fashion|digits] [--json] [--no-file]

Real labelled pictures that need no download: Debian's dataset-fashion-mnist where it is installed, else scikit-learn's
handwritten digits. All get the same train, val and test pictures. The one side is two commands, `indexer index` and
`probes linear`, with their start-up. The other trains by Adam and keeps the epoch of the best val AUC: torchvision's
ResNet-18 from scratch at 32 px, and the table's own encoder, EfficientNet-Lite0 with its ImageNet weights, fine-tuned
with a new head at --fine-tune-side px. Each is scored when it has used as many processor seconds as the commands, and
again when val has not improved for PATIENCE epochs. Processor seconds change little on a busy machine (threads that
wait do not spin here); the clock does, and stands beside them. Written to benchmarks/results/paper.json.
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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score

from benchmarks.provenance import write
from indexer.children import environment, python_command

ENCODER = "efficientnet-lite0"  # its weights come as a package
SIDE, BATCH, RATE, FINE_RATE, PATIENCE, MOST_EPOCHS = 32, 32, 1e-3, 3e-4, 3, 40
FASHION = Path("/usr/share/datasets/fashion-mnist")
RESULTS = Path(__file__).parent / "results" / "paper.json"
Parts = dict[str, tuple[Any, Any]]  # train, val, test → pictures (n, h, w) uint8 and classes (n,)


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


def split(x: Any, y: Any, sizes: dict[str, int], seed: int) -> Parts:
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


def embed_and_probe(parts: Parts, folder: Path) -> tuple[float, float, float]:
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


def scratch(classes: int) -> Any:
    from torchvision.models import resnet18

    return resnet18(num_classes=classes)


def own_encoder(classes: int) -> Any:
    """The network behind the table's vectors, with a new head."""
    import torch

    from indexer.encoders.families.weights import WeightsRequest
    from indexer.encoders.loading import BUNDLED, find

    definition = find(BUNDLED, WeightsRequest("default"))
    return torch.nn.Sequential(definition.build().module, torch.nn.Linear(definition.spec.dim, classes))


def train(
    parts: Parts, build: Callable[[int], Any], side: int, rate: float, budget: float, seed: int
) -> tuple[Training, Training]:
    """At `budget` processor seconds (or at convergence, where that comes first), and at convergence."""
    import torch
    from torch.nn import functional

    torch.manual_seed(seed)
    start, before = time.perf_counter(), spent(resource.RUSAGE_SELF)
    ready = {name: (_tensor(torch, functional, x, side), torch.from_numpy(y)) for name, (x, y) in parts.items()}
    net = build(int(max(y.max() for _, y in parts.values())) + 1)
    optimiser = torch.optim.Adam(net.parameters(), rate)
    x, y = ready["train"]
    best, state, waited, epoch, at_budget = -1.0, copy.deepcopy(net.state_dict()), 0, 0, None

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
        print(f"{build.__name__}, epoch {epoch}: val {auc:.4f}", file=sys.stderr, flush=True)
        if at_budget is None and spent(resource.RUSAGE_SELF) - before >= budget:
            at_budget = reached()
    done = reached()
    return at_budget or done, done


def _tensor(torch: Any, functional: Any, x: Any, side: int) -> Any:
    grey = torch.from_numpy(x.copy()).float()[:, None] / 127.5 - 1
    return functional.interpolate(grey, side, mode="bilinear", antialias=True).expand(-1, 3, -1, -1).contiguous()


def _auc(torch: Any, net: Any, x: Any, y: Any) -> float:
    net.eval()
    with torch.inference_mode():
        p = torch.cat([net(block).softmax(1) for block in x.split(64)])
    return macro_auc(y.numpy(), p.numpy())


def measured(args: argparse.Namespace) -> dict[str, Any]:
    sizes = {"train": args.train, "val": args.val, "test": args.test}
    parts = split(*pictures(args.data, args.fashion), sizes, args.seed)
    with tempfile.TemporaryDirectory() as folder:
        auc, seconds, clock = embed_and_probe(parts, Path(folder))
    equal, done = train(parts, scratch, SIDE, RATE, seconds, args.seed)
    fine_equal, fine = train(parts, own_encoder, args.fine_tune_side, FINE_RATE, seconds, args.seed)
    return {
        "data": args.data, **sizes, "classes": len(np.unique(parts["test"][1])), "seed": args.seed,
        "auc_probe": auc, "auc_trained": done.auc, "auc_trained_equal_time": equal.auc,
        "auc_fine_tuned": fine.auc, "auc_fine_tuned_equal_time": fine_equal.auc,
        "seconds_embed_and_probe": round(seconds, 1), "seconds_training": round(done.seconds, 1),  # of the processor
        "seconds_fine_tuning": round(fine.seconds, 1),
        "clock_embed_and_probe": round(clock, 1), "clock_training": round(done.clock, 1),
        "clock_fine_tuning": round(fine.clock, 1),
        "epochs": done.epochs, "epochs_equal_time": equal.epochs, "epochs_fine_tuning": fine.epochs,
        "epochs_fine_tuning_equal_time": fine_equal.epochs, "side_training": SIDE,
        "side_fine_tuning": args.fine_tune_side, "made": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def table(found: dict[str, Any]) -> str:
    size = f"{found['train']} pictures to train on, {found['classes']} classes, macro AUC of {found['test']} in test"
    lines = [f"{found['data']}: {size}"]
    for what, name, seconds, epochs in (
        ("embed and probe", "auc_probe", "seconds_embed_and_probe", ""),
        ("ResNet-18 from scratch, as many seconds", "auc_trained_equal_time", "", "epochs_equal_time"),
        ("ResNet-18 from scratch, to convergence", "auc_trained", "seconds_training", "epochs"),
        ("own encoder fine-tuned, as many seconds", "auc_fine_tuned_equal_time", "", "epochs_fine_tuning_equal_time"),
        ("own encoder fine-tuned, to convergence", "auc_fine_tuned", "seconds_fine_tuning", "epochs_fine_tuning"),
    ):
        cost = f"{found[seconds]:8.1f} processor seconds" if seconds else ""
        lines.append(f"{what:40} {found[name]:.4f} {cost} {f'{found[epochs]} epochs' if epochs else ''}".rstrip())
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = "fashion" if FASHION.is_dir() else "digits"
    parser.add_argument("--data", choices=["digits", "fashion"], default=default)
    parser.add_argument("--fashion", type=Path, default=FASHION, help="folder of the idx files")
    parser.add_argument("--train", type=int, default=800)
    parser.add_argument("--val", type=int, default=200)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--fine-tune-side", type=int, default=112, help="pixels; the table's vectors are of 224")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--no-file", action="store_true", help="write no file of results")
    args = parser.parse_args()
    os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}  # before torch is loaded, and for the commands
    found = measured(args)
    if not args.no_file:
        found = write(RESULTS, found)
    print(json.dumps(found) if args.json else table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
