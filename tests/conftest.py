"""What every test runs in: this tree, in child processes too, one thread each, no proxy, 80 columns, no deadline."""

import atexit
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from indexer.cores import cores
from indexer.memory.budget import machine_bytes

ROOT = Path(__file__).parents[1]

# Test processes share the cores: each computes with one thread, or they wait for each other's.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Children (`python -m indexer`, decoders) import this tree, whatever folder they run in and whatever is installed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))

# Servers of these tests listen on 127.0.0.1: a proxy of the machine would be asked for them.
for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
    del os.environ[name]

# Help pages and tables are as wide as the terminal and coloured where the environment asks for it.
os.environ["COLUMNS"] = "80"
for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
    os.environ.pop(name, None)

# What a user's runs write down about him stays in a folder of the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="indexer-state-")
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell; the tests interrupt
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("any load", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any load")


# Files of minutes, in the order of their length: they begin first, or one process waits at the end for the other.
LONG = (
    "faults/test_faults.py", "probes/test_bundle.py", "test_readme.py", "indexer/test_encoders_openvino.py",
    "power/test_power_loss.py", "cluster/test_writers.py", "probes/test_commands.py", "cluster/test_ray.py",
    "cluster/test_requests.py", "cluster/test_database.py", "cluster/test_parts.py", "test_end_to_end.py",
)  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, since tests wait for children and disks; each may take 3 GB, its children more."""
    return max(1, min(cores() + 1, machine_bytes() // (6 << 30)))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ranks = {ROOT / "tests" / name: rank for rank, name in enumerate(LONG)}
    items.sort(key=lambda item: ranks.get(item.path, len(ranks)))  # stable: the others stay in their order


def pytest_itemcollected(item: pytest.Item) -> None:
    """`-k cases` chooses the tests of faults found by use, `-k case_P1_` those of one (tests/cases/catalogue.py).

    A test is of a fault by its mark, or by its name: `test_case_p1_…`.
    """
    ids = [name for mark in item.iter_markers("case") for name in mark.args]
    item.extra_keyword_matches.update(f"case_{name}_" for name in ids)
    ids += [item.name] if item.name.startswith("test_case_") else []
    if ids or item.path.is_relative_to(ROOT / "tests" / "cases"):
        item.extra_keyword_matches.add("cases")


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_testnodedown(node, error):
    """How a test process ended that nobody asked to end: a signal says who did it, 9 the kernel for want of memory."""
    process = getattr(node.gateway._io, "popen", None)
    if error and process is not None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        text = f"{node.gateway.id} (process {process.pid}) ended with {process.returncode}: below 0 a signal"
        node.config.pluginmanager.get_plugin("terminalreporter").write_line(f"\n{text}")


def pytest_terminal_summary(terminalreporter):
    """What simulations measured (`record_property("measured", …)`), at the end of a run."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    lines = [
        value for report in reports for name, value in getattr(report, "user_properties", ()) if name == "measured"
    ]
    if lines:
        terminalreporter.section("measured")
        for line in sorted(set(lines)):
            terminalreporter.write_line(line)
