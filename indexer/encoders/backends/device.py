"""Resolves `--device` and `--decoder` to the devices of this machine."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from indexer.errors import EncoderError

OPENVINO = "openvino"  # runs on the CPU too, through another library


def require_decoder(decoder: str, device: str) -> None:
    """Raise EncoderError unless `--decoder` (cpu | gpu) is available with `--device` on this machine."""
    if decoder == "cpu":
        return
    if decoder != "gpu":
        raise EncoderError(f"decoder {decoder!r} is none of cpu, gpu.")
    if not devices(device):
        raise EncoderError(
            f"--decoder gpu needs an NVIDIA GPU, and --device {device} means the CPU here "
            f"({torch.cuda.device_count()} GPUs are visible). Use --decoder cpu."
        )
    if find_spec("torchcodec") is None:
        raise EncoderError(
            "--decoder gpu needs torchcodec. Install it (pip install 'embedding-indexer[gpu]'), or use --decoder cpu."
        )


def devices(text: str) -> tuple[torch.device, ...]:
    """The GPUs that `--device` (auto | cpu | openvino | cuda | cuda:N) names; () means the CPU.

    "cuda" means every visible GPU, "auto" the same where there is one. Raises EncoderError for another value, or a GPU
    that is not visible.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text in ("cpu", OPENVINO) or (text == "auto" and not count):
        return ()
    if text in ("auto", "cuda") and count:
        return tuple(torch.device("cuda", i) for i in range(count))
    kind, _, number = text.partition(":")
    if kind == "cuda" and (not number or number.isdigit()):
        if number and int(number) < count:
            return (torch.device("cuda", int(number)),)
        raise EncoderError(f"no GPU {text}: {count} are visible here. Use --device cpu, or auto.")
    raise EncoderError(f"device {text!r} is none of auto, cpu, {OPENVINO}, cuda, cuda:N. Name one of these.")
