"""Which devices `--device` means."""

from __future__ import annotations

from importlib.util import find_spec

import torch

from indexer.errors import EncoderError

OPENVINO = "openvino"  # the CPU by another library


def require_decoder(decoder: str, device: str) -> None:
    """Raise EncoderError unless `--decoder` (cpu | gpu) can be had with `--device`."""
    if decoder == "cpu":
        return
    if decoder != "gpu":
        raise EncoderError(f"decoder {decoder!r} is none of cpu, gpu.")
    if not devices(device):
        raise EncoderError(
            f"--decoder gpu needs an NVIDIA GPU, and --device {device} means the CPU here "
            f"({torch.cuda.device_count()} GPUs are visible). Leave --decoder gpu away."
        )
    if find_spec("torchcodec") is None:
        raise EncoderError(
            "--decoder gpu needs torchcodec. Install it (pip install 'embedding-indexer[gpu]'), or leave it away."
        )


def devices(text: str) -> tuple[torch.device, ...]:
    """`--device` (auto | cpu | openvino | cuda | cuda:N) → the GPUs to use; () is the CPU.

    "cuda" and "auto" take every GPU.

    Raises EncoderError for another word, or a GPU that is not there.
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
    raise EncoderError(f"device {text!r} is none of auto, cpu, {OPENVINO}, cuda, cuda:N.")
