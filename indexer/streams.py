"""Text from and to the shell: stdout and stderr that take every text, and arguments that are none."""

from __future__ import annotations

import io
import os
import re
import sys
from pathlib import Path
from typing import TextIO

SURROGATES = re.compile("[\ud800-\udfff]")  # how Python holds bytes that are not UTF-8


def take_any_text() -> None:
    """Streams that the shell closed (`>&-`) drop what is written; those of another encoding than UTF-8 get escapes."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 - open until the process ends
        elif isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def is_utf8(stream: TextIO) -> bool:
    """Whether the stream writes every character, so that JSON needs no escapes of its own."""
    return (stream.encoding or "utf-8").lower().replace("-", "") == "utf8"
