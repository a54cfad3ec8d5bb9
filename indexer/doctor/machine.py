"""Processors with their measured speed, main memory and free disk space."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.memory.budget import machine_bytes

if TYPE_CHECKING:
    import torch

PACKAGES = (
    "embedding-indexer", "torch", "torchvision", "open_clip_torch", "timm", "pylance", "lancedb", "faiss-cpu",
    "pyarrow", "numpy", "scikit-learn", "webdataset", "pillow", "simplejpeg", "tifffile", "pydicom", "python-gdcm",
    "pyjpegls", "pylibjpeg", "pylibjpeg-openjpeg", "nibabel", "dicomweb-client",
)  # fmt: skip
_SIDE = 1024  # of the matrices multiplied
_ROUNDS = 5


@dataclass(frozen=True)
class Device:
    """One processor, measured with matrix products. Speeds are in GFLOP/s, by precision."""

    name: str  # as --device names it
    model: str
    memory_bytes: int
    gflops: dict[str, float]
    quickest: str  # the fastest precision; "" where nothing could be computed
    trouble: str = ""  # why it cannot be used


@dataclass(frozen=True)
class Disk:
    """Free space at one path that a run writes to."""

    what: str
    path: str
    free_bytes: int
    total_bytes: int


@dataclass(frozen=True)
class Machine:
    """The measurements of this machine."""

    system: str
    python: str
    cores: int  # available to this process
    devices: tuple[Device, ...]
    default_device: str  # chosen by --device auto
    versions: dict[str, str | None]  # None: not installed
    disks: tuple[Disk, ...]


def look(places: Iterable[tuple[str, Path]]) -> Machine:
    """Measure this machine; `places` are (description, path) whose free space is reported. Takes about a second."""
    from indexer.cores import cores
    from indexer.encoders.backends.device import devices

    chosen = devices("auto")
    gpus = tuple(_gpu(device.index or 0) for device in chosen)
    return Machine(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=sys.version.split()[0],
        cores=cores(),
        devices=(*gpus, _cpu()),
        default_device=",".join(map(str, chosen)) or "cpu",
        versions={name: _version(name) for name in PACKAGES},
        disks=tuple(disk for what, path in places if (disk := _disk(what, path))),
    )


def usual_places() -> list[tuple[str, Path]]:
    """The paths that any run writes to: current folder, temporary files, cache of downloaded models."""
    cache = Path(os.environ.get("HF_HOME", Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface"))
    return [
        ("this folder", Path.cwd()),
        ("temporary files", Path(tempfile.gettempdir())),
        ("downloaded models", cache.expanduser()),
    ]


def hidden_gpu() -> str:
    """A message about an installed GPU that torch cannot use; empty where there is none."""
    import torch

    if torch.cuda.is_available() or not Path("/dev/nvidia0").exists():
        return ""
    if torch.version.cuda is None:
        return f"a GPU is here, and torch {torch.__version__} was built for the CPU: install torch with CUDA"
    return f"a GPU is here, and torch (CUDA {torch.version.cuda}) cannot use it: its driver may be too old"


def _cpu() -> Device:
    speeds = _speeds("cpu", ("fp32", "bf16"))
    return Device("cpu", _cpu_model(), machine_bytes(), speeds, quickest(speeds))


def _gpu(number: int) -> Device:
    import torch

    name, facts = f"cuda:{number}", torch.cuda.get_device_properties(number)
    try:
        speeds, trouble = _speeds(name, ("fp32", "bf16", "fp16")), ""
    except RuntimeError as error:  # a torch without code for this GPU, or a GPU that another process has filled
        speeds, trouble = {}, str(error).splitlines()[0]
    return Device(name, facts.name, int(facts.total_memory), speeds, quickest(speeds), trouble)


def quickest(gflops: dict[str, float]) -> str:
    """The fastest precision: fp32 unless another is clearly faster."""
    best = max(gflops, key=lambda precision: gflops[precision], default="")
    return best if not best or gflops[best] > 1.1 * gflops["fp32"] else "fp32"


def _speeds(device: str, precisions: Iterable[str]) -> dict[str, float]:
    import torch

    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    matrices = {name: torch.ones(_SIDE, _SIDE, dtype=types[name], device=device) for name in precisions}
    return {name: _gflops(matrix) for name, matrix in matrices.items()}


def _gflops(matrix: torch.Tensor) -> float:
    """The rate of the fastest of a few products, because other load slows some of them."""
    quickest = float("inf")
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        float((matrix @ matrix)[0, 0])  # reading a value waits for the GPU
        quickest = min(quickest, time.perf_counter() - started)
    return 2 * _SIDE**3 / quickest / 1e9


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _disk(what: str, path: Path) -> Disk | None:
    """The free space where `path` is or will be; None where no parent of it can be examined."""
    path = path.absolute()
    there = next((folder for folder in (path, *path.parents) if folder.exists()), None)
    if there is None:
        return None
    usage = shutil.disk_usage(there)
    return Disk(what, str(path), usage.free, usage.total)
