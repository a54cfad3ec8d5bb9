"""A process that has imported everything heavy and forks one child a command: 0.1 s instead of 8 s a run.

It reads one JSON request a line on stdin and answers with one JSON line when the child starts and one when it ends.
The child is a real process of its own: own session, default signals, the real `main()`, the exit handlers. Only the
freeing of 3,700 imported modules at the very end (3 s on a busy machine) is left out. `harness.py` checks that it does
what the command itself does. Run as `python -m tests.faults.zygote LIBRARY`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import datetime
import gc
import json
import os
import resource
import select
import signal
import sys
import threading
import traceback
import warnings
from pathlib import Path
from typing import Any

ANSWER_SECONDS = 0.005
CAPABILITIES_3 = 0x20080522  # of capset(2)
HEAVY = (
    "indexer.commands.index", "indexer.commands.upkeep.failures", "indexer.commands.upkeep.optimize",
    "indexer.commands.labels", "indexer.commands.build_ann", "indexer.commands.pack",
    "indexer.commands.upkeep.info", "indexer.commands.search", "indexer.encoders.families.efficientnet_lite0",
    "indexer.encoders.backends.cpu", "indexer.pipeline.retry", "indexer.search.index_build",
    "indexer.search.searcher", "indexer.search.queries", "indexer.pack.run", "indexer.store.writer", "lancedb",
    "indexer.pixels.dicom.reader", "indexer.encoders.families.hub", "rich.progress", "pyarrow.csv",
    "pyarrow.parquet", "torch.nn.functional", "simplejpeg", "pydicom",
)  # fmt: skip


def main() -> None:
    import importlib

    for module in HEAVY:
        importlib.import_module(module)
    gc.freeze()  # a child would copy every page that its collector touches
    library = ctypes.CDLL(sys.argv[1])
    _answer({"ready": True})
    running: dict[int, int] = {}  # pid → number of the request
    rest = b""
    while True:
        if select.select([0], [], [], ANSWER_SECONDS if running else None)[0]:
            block = os.read(0, 1 << 16)
            if not block:
                return
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                request = json.loads(line)
                pid = _fork()
                if pid == 0:
                    os._exit(_become(request, library))
                running[pid] = request["number"]
                _answer({"number": request["number"], "pid": pid})
        for pid in list(running):
            done, status, used = os.wait4(pid, os.WNOHANG)
            if done:
                code, seconds = os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime
                _answer({"number": running.pop(pid), "code": code, "processor_seconds": seconds})


def _fork() -> int:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lance's and lancedb's: nothing of theirs has run yet in this process
        return os.fork()


def _become(request: dict[str, Any], library: ctypes.CDLL) -> int:
    """Be the program that `request` names; its exit code."""
    _separate(request)
    if request["arm"] and not _armed(request["arm"], library):
        sys.stderr.write("this kernel refuses a seccomp filter\n")
        return 70
    if request["keep_nothing"]:  # what a clean-up does a day later, it does now
        from indexer.store.writing import compaction

        compaction.KEEP_VERSIONS = datetime.timedelta(0)
    sys.argv = request["argv"]
    from indexer.cli import main as program

    code = 0
    try:
        program()
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:  # noqa: BLE001 - as the interpreter itself ends
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError, ValueError):
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _separate(request: dict[str, Any]) -> None:
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for stream, name in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        file = os.open(name, os.O_RDONLY if stream == 0 else os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, stream)
        os.close(file)
    if request["file_bytes"]:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as Python does at its start: the write fails with EFBIG
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_bytes"], request["file_bytes"]))
    if request["plain"]:  # root reads and writes whatever the permissions say; without its capabilities it does not
        header, none = (ctypes.c_uint32 * 2)(CAPABILITIES_3, 0), (ctypes.c_uint32 * 6)()
        ctypes.CDLL(None).capset(header, none)


def _armed(plan: dict[str, Any], library: ctypes.CDLL) -> bool:
    os.environ["LD_PRELOAD"] = library._name  # what it starts inherits the filter, and needs its handler
    refused = library.faults_arm(
        os.fsencode(plan["root"]), plan["kinds"], ctypes.c_long(plan["at"]), plan["action"], plan["error"],
        os.fsencode(plan["events"]), os.fsencode(plan["note"]),
    )  # fmt: skip
    return not refused


def _answer(facts: dict[str, Any]) -> None:
    os.write(1, json.dumps(facts).encode() + b"\n")


if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parents[2])
    main()
