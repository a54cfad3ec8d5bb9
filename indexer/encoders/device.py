"""Which devices `--device` means."""

from __future__ import annotations

import torch

from indexer.errors import EncoderError


def devices(text: str) -> tuple[torch.device, ...]:
    """`--device` (auto | cpu | cuda | cuda:N) → the GPUs to use; () is the CPU. "cuda" and "auto" take every one.

    Raises EncoderError for another word, or a GPU that is not there.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if text == "cpu" or (text == "auto" and not count):
        return ()
    if text in ("auto", "cuda") and count:
        return tuple(torch.device("cuda", i) for i in range(count))
    kind, _, number = text.partition(":")
    if kind == "cuda" and (not number or number.isdigit()):
        if number and int(number) < count:
            return (torch.device("cuda", int(number)),)
        raise EncoderError(f"no GPU {text}: {count} are visible here. Use --device cpu, or auto.")
    raise EncoderError(f"device {text!r} is none of auto, cpu, cuda, cuda:N.")
