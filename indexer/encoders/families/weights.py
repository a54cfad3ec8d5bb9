"""The value of `--weights`, and reading a weights file without executing code from it."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError  # only to catch it  # nosec B403
from typing import Any, Literal

import torch

from indexer.encoders.families.file_hash import sha256
from indexer.errors import WeightsMismatch, WeightsNotFound, sentence

FILE_SUFFIXES = (".pt", ".pth", ".bin", ".safetensors", ".npz", ".ckpt")
SHOWN_KEYS = 3


@dataclass(frozen=True)
class WeightsRequest:
    """The parsed value of `--weights`."""

    kind: Literal["default", "tag", "file", "random"]
    value: str = ""  # the tag, the path, or the seed
    download: bool = True  # whether published weights that are not on this machine may be downloaded

    @property
    def path(self) -> Path:
        return Path(self.value)

    @property
    def seed(self) -> int:
        return int(self.value)


def parse(weights: str | None, *, download: bool = True) -> WeightsRequest:
    """Parse None, a tag, an existing file or folder, "random" or "random:<seed>".

    Raises WeightsNotFound for a text that looks like a path where nothing is.
    """
    if weights is None:
        return WeightsRequest("default", download=download)
    if weights == "random":
        return WeightsRequest("random", "0")
    head, _, rest = weights.partition(":")
    if head == "random" and rest.isdigit():
        return WeightsRequest("random", rest)
    path = Path(weights).expanduser()
    if path.exists():
        return WeightsRequest("file", str(path.resolve()), download)
    if path.suffix in FILE_SUFFIXES or path.is_absolute() or weights.startswith("."):
        raise WeightsNotFound(f"no weights file {weights}. Check the path given with --weights.")
    return WeightsRequest("tag", weights, download)


def identity(request: WeightsRequest, tag: str) -> str:
    """The value of `EncoderSpec.weights`: the tag, "random:<seed>", or "sha256:<hex>" of the file's bytes."""
    if request.kind == "random":
        return f"random:{request.value}"
    return f"sha256:{sha256(request.path)}" if request.kind == "file" else tag


def read(path: Path) -> dict[str, torch.Tensor]:
    """The state_dict in a .safetensors file, or in a .pth/.pt/.bin file read with weights_only=True.

    A checkpoint dictionary is unwrapped ("state_dict", "model"), and the "module." prefix of DataParallel removed.
    Raises WeightsMismatch for anything else.
    """
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(str(path)))
        except SafetensorError as error:
            raise WeightsMismatch(
                f"{path} is not a readable .safetensors file: {sentence(error)}. Download or save it again."
            ) from error
    content = _plain(path)
    for wrapper in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not all(isinstance(v, torch.Tensor) for v in content.values()):
        raise WeightsMismatch(f"{path} holds no state_dict. Save the model's state_dict as .safetensors.")
    state = {str(k): v for k, v in content.items()}
    if state and all(k.startswith("module.") for k in state):
        state = {k.removeprefix("module."): v for k, v in state.items()}
    return state


def refuse_code(path: Path) -> None:
    """Raise WeightsMismatch for a file that holds more than tensors. Call it before a library opens the file."""
    if path.suffix in (".safetensors", ".npz", ".npy"):
        return  # these formats cannot hold code
    if not zipfile.is_zipfile(path):  # torch's legacy format: whether it holds code is known only after reading it
        _plain(path)
        return
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("constants.pkl") for name in archive.namelist()):
            raise not_plain(path)


def _plain(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, UnpicklingError, EOFError, ValueError) as error:
        raise not_plain(path) from error


def not_plain(path: Path) -> WeightsMismatch:
    """The error for a file that could execute code, or does not hold tensors at all."""
    return WeightsMismatch(
        f"{path} is not a plain file of tensors (a pickled model or TorchScript is refused: it could run code). "
        "Save its state_dict as .safetensors."
    )


def fill(module: torch.nn.Module, state: Mapping[str, torch.Tensor], where: str) -> None:
    """Strict `load_state_dict`. Raises WeightsMismatch that names the first keys that differ."""
    own = module.state_dict()
    missing, extra = [k for k in own if k not in state], [k for k in state if k not in own]
    shapes = [
        f"{k} {tuple(state[k].shape)} for {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or extra or shapes:
        parts = [_some("missing", missing), _some("unknown", extra), _some("of another shape", shapes)]
        raise WeightsMismatch(
            f"{where} does not fit {type(module).__name__}: {'; '.join(p for p in parts if p)}. "
            "Name the architecture these weights were trained in (--encoder)."
        )
    module.load_state_dict(dict(state), strict=True)


def misfit(where: str, architecture: str, error: Exception) -> WeightsMismatch:
    """The error of `fill` for weights that a library loaded strictly itself: its first two lines name the keys."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return WeightsMismatch(
        f"{where} does not fit {architecture}: {' '.join(lines[:2])[:300]}. "
        "Name the architecture these weights were trained in (--encoder)."
    )


def _some(what: str, keys: list[str]) -> str:
    more = f" and {len(keys) - SHOWN_KEYS} more" if len(keys) > SHOWN_KEYS else ""
    return f"{what}: {', '.join(keys[:SHOWN_KEYS])}{more}" if keys else ""


@contextmanager
def drawn_from(seed: int) -> Iterator[None]:
    """Seeds torch inside the context, for random initial weights, and restores the caller's random state."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
