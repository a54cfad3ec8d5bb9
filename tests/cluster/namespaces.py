"""Two machines as two network namespaces with one cable between them, which can be cut."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

STARTED_SECONDS = 180.0


def missing() -> str:
    """Why namespaces cannot be made here; "" where they can."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return "network namespaces are made by root, with the program ip (Debian: iproute2)"
    name = f"try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return f"this kernel forbids network namespaces: {made.stderr.strip()}" if made.returncode else ""


@dataclass(frozen=True)
class Machines:
    """Names of the namespaces and their addresses."""

    names: tuple[str, str]
    addresses: tuple[str, str]

    def start(self, machine: int, *words: str, environment: dict[str, str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.names[machine], *words],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip

    def run(self, machine: int, *words: str, environment: dict[str, str]) -> str:
        """What a command prints."""
        command = ["ip", "netns", "exec", self.names[machine], *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120).stdout

    def until_listening(self, machine: int, address: str) -> None:
        """Wait until a program listens at HOST:PORT, as that machine sees it."""
        look = ["bash", "-c", f"exec 3<>/dev/tcp/{address.replace(':', '/')}"]
        end = time.monotonic() + STARTED_SECONDS
        while subprocess.run(["ip", "netns", "exec", self.names[machine], *look], capture_output=True).returncode:
            if time.monotonic() > end:
                raise TimeoutError(f"nothing listens at {address}")
            time.sleep(0.3)

    def cut(self) -> None:
        _ip("-n", self.names[1], "link", "set", "cable", "down")

    def join(self) -> None:
        _ip("-n", self.names[1], "link", "set", "cable", "up")


@contextmanager
def two() -> Iterator[Machines]:
    """Both see each other alone; neither has a way out."""
    names = (f"first-{os.getpid()}", f"second-{os.getpid()}")
    addresses = ("10.254.77.1", "10.254.77.2")
    made: list[str] = []
    try:
        for name in names:
            _ip("netns", "add", name)
            made.append(name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", names[0], "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1])
        for name, address in zip(names, addresses, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "cable", "up")
        yield Machines(names, addresses)
    finally:
        for name in made:
            _ip("netns", "del", name)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
