"""Run a command line in this process, as a shell would see it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from dataclasses import dataclass
from typing import Any
from unittest import mock


class Tty(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def call(program: str, *arguments: object) -> Done:
    """`call("indexer", "info", db)` → exit code, stdout, stderr."""
    import importlib

    main = importlib.import_module(f"{program}.cli").main
    out, err = io.StringIO(), io.StringIO()
    code = 0
    with (
        mock.patch.object(sys, "argv", [program, *map(str, arguments)]),
        # click names the program by the module that Python was started with: pytest's, in a test without workers
        mock.patch.object(sys.modules["__main__"], "__package__", None, create=True),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Done(code, out.getvalue(), err.getvalue())
