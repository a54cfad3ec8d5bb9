"""A disk that is full, read-only or forbidden; shards that go, come or change while they are read."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.errors import ONE_COMMIT, told
from tests.faults.kills import new_place
from tests.faults.life import STEPS, Place, State, Verdict, compare, index, state, troubled
from tests.faults.material import Material
from tests.faults.runs import Action, Arm, Kind, Run, Zygote
from tests.faults.tally import Tally

ROOMY = "256m"
FULL = "no space left"


def full(zygote: Zygote, material: Material, root: Path, right: State, *, seed: int, count: int) -> Tally:
    """ENOSPC from a chosen call on, as a full disk gives it; then there is room again."""
    tally = Tally("disk full from a call on")
    rng = random.Random(f"full-{seed}")
    kinds = Kind.WRITE | Kind.CREATE | Kind.CUT
    while tally.faults < count:
        place = new_place(root, f"full-{tally.faults}", material, commit_rows=ONE_COMMIT)
        for step in STEPS:
            step.before(place)
            at = int(rng.paretovariate(0.5)) * 3
            run = zygote.run(*step.argv(place), arm=Arm(place.work, kinds, at, Action.FAIL_ON, errno.ENOSPC))
            _told(run, step.name, tally)
            if troubled(run):
                tally.faults += 1
                _again(zygote, step.argv(place), step.name, tally)
        tally.judge(f"full-{seed}", compare(state(place), right))
        shutil.rmtree(place.root)
    return tally


def small_disk(zygote: Zygote, material: Material, root: Path, right: State, *, seed: int, count: int) -> Tally:
    """A real file system of a few hundred kilobytes, made larger after each command that met its end."""
    tally = Tally("a real full disk (tmpfs)")
    if os.geteuid() != 0:
        tally.notes.append("not run: mounting needs root")
        return tally
    rng = random.Random(f"tmpfs-{seed}")
    for number in range(count):
        place = new_place(root, f"tmpfs-{number}", material, commit_rows=ONE_COMMIT)
        with _mounted(place.work, "80k"):
            for step in STEPS:
                step.before(place)
                for kilobytes in sorted(_used(place) + rng.randint(4, 160) for _ in range(2)):
                    _resize(place.work, f"{kilobytes}k")
                    run = zygote.run(*step.argv(place))
                    _told(run, step.name, tally)
                    tally.faults += troubled(run)
                    if troubled(run) and FULL not in run.err.lower():
                        tally.blame(f"{step.name} on a full disk says {run.err[-300:]!r}")
                    if not troubled(run):
                        break
                _resize(place.work, ROOMY)
                if troubled(run):
                    _again(zygote, step.argv(place), step.name, tally)
            tally.judge(f"tmpfs {number}", compare(state(place), right))
        shutil.rmtree(place.root)
    return tally


def forbidden(zygote: Zygote, material: Material, root: Path, right: State) -> Tally:
    """The database may be read and not written: reading goes on, writing says so, and nothing has changed."""
    tally = Tally("read-only, permission lost, file limit")
    place = new_place(root, "forbidden", material, commit_rows=ONE_COMMIT)
    for step in STEPS:
        step.before(place)
        if place.db.exists():
            before = state(place)
            with _read_only(place.db):
                refused = zygote.run(*step.argv(place), plain=True)
                shown = zygote.run("info", place.db, "--json", plain=True)
            tally.runs += 2
            tally.faults += 1
            if not (refused.code == 1 and "error:" in refused.err and "Traceback" not in refused.err):
                tally.blame(f"{step.name} on a read-only database: {refused.code} {refused.err[-600:]!r}")
            if shown.code != 0:
                tally.blame(f"info on a read-only database: {shown.err[-300:]!r}")
            tally.judge(f"{step.name} on a read-only database", compare(state(place), before))
        for nbytes in (300, 5_000):  # a quota on one file, as ulimit -f sets it
            limited = zygote.run(*step.argv(place), file_bytes=nbytes)
            _told(limited, step.name, tally)
            tally.faults += troubled(limited)
        _again(zygote, step.argv(place), step.name, tally)
    tally.judge("forbidden", compare(state(place), right))
    tally.judge("forbidden in the middle", _forbidden_in_the_middle(zygote, material, root, tally, right))
    shutil.rmtree(place.root)
    return tally


def _forbidden_in_the_middle(zygote: Zygote, material: Material, root: Path, tally: Tally, right: State) -> Verdict:
    """The permission goes while a run commits shard after shard."""
    place = new_place(root, "forbidden-later", material)
    for step in STEPS:
        step.before(place)
        run = zygote.start(*step.argv(place), plain=True)
        if step.name.startswith("index"):
            _until_some_commits(zygote, place, run)
            with _read_only(place.db):
                zygote.wait(run)
            tally.faults += 1
        zygote.wait(run)
        _told(run, step.name, tally)
        if troubled(run):
            _again(zygote, step.argv(place), step.name, tally)
    verdict = compare(state(place), right)
    shutil.rmtree(place.root)
    return verdict


def shards_change(zygote: Zygote, material: Material, root: Path) -> Tally:
    """Shards removed, replaced and growing, between runs and under a run."""
    tally = Tally("shard removed, replaced, growing")
    for number, change in enumerate((_removed, _replaced, _growing)):
        place = new_place(root, f"shards-{number}", material)
        clean = new_place(root, f"shards-{number}-right", material)
        zygote.run(*index(clean.material.shards, place=clean))
        change(zygote, place, tally)
        tally.faults += 1
        last = zygote.run(*index(place.material.shards, place=place), "--changed", "replace")
        tally.runs += 1
        if troubled(last):
            tally.blame(f"{change.__name__}: the last run says {last.err[-400:]!r}")
        tally.judge(change.__name__, compare(state(place), state(clean)))
        shutil.rmtree(place.root)
        shutil.rmtree(clean.root)
    return tally


def _removed(zygote: Zygote, place: Place, tally: Tally) -> None:
    """A shard that is listed and cannot be opened, one that goes under the run, and one that is not there at all."""
    shards = sorted(place.material.shards.glob("*.tar"))
    aside, mode = place.root / "aside.tar", shards[0].stat().st_mode
    shards[0].chmod(0)
    run = zygote.start(*index(place.material.shards, place=place), plain=True)
    _until_some_commits(zygote, place, run)
    shards[-1].rename(aside)
    zygote.wait(run)
    _told(run, "index with a shard gone", tally)
    failed = [dict(f)["reason"] for f in state(place).failures]
    if run.code != 1 or "shard cannot be opened" not in failed:
        tally.blame(f"a shard that may not be read is not named: {run.code} {failed}")
    gone = zygote.run(*index(shards[-1], place=place))
    tally.runs += 1
    if gone.code != 1 or shards[-1].name not in gone.err:
        tally.blame(f"index of a shard that is not there: {gone.code} {gone.err[-300:]!r}")
    aside.rename(shards[-1])
    shards[0].chmod(mode)


def _replaced(zygote: Zygote, place: Place, tally: Tally) -> None:
    """Other content under a shard's name: an error that names it, before anything is done; then it is taken."""
    zygote.run(*index(place.material.shards, place=place))
    target = sorted(place.material.shards.glob("*.tar"))[4]
    original, times = target.read_bytes(), target.stat()
    shutil.copy(sorted((place.material.root / "replaced").glob("*.tar"))[0], target)
    before = state(place)
    refused = zygote.run(*index(place.material.shards, place=place))
    if refused.code != 1 or target.name not in refused.err or "--changed" not in refused.err:
        tally.blame(f"a changed shard: {refused.code} {refused.err[-300:]!r}")
    tally.judge("a changed shard, refused", compare(state(place), before))
    taken = zygote.run(*index(place.material.shards, place=place), "--changed", "replace")
    tally.runs += 3
    if troubled(taken):
        tally.blame(f"--changed replace: {taken.err[-300:]!r}")
    target.write_bytes(original)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def _growing(zygote: Zygote, place: Place, tally: Tally) -> None:
    """The last shard is still being written when the run begins, and while it goes on."""
    target = sorted(place.material.shards.glob("*.tar"))[-1]
    data, times = target.read_bytes(), target.stat()
    target.write_bytes(data[:700])
    run = zygote.start(*index(place.material.shards, place=place))
    for end in range(700, len(data), 2000):
        target.write_bytes(data[:end])
        if zygote.wait_some(run, 0.1):
            break
    zygote.wait(run)
    _told(run, "index beside a growing shard", tally)
    target.write_bytes(data)
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))


def _until_some_commits(zygote: Zygote, place: Place, run: Run, commits: int = 2) -> None:
    end = time.monotonic() + 60
    while run.code is None and time.monotonic() < end:
        if len(list(place.db.glob("t.shards.lance/_versions/*.manifest"))) > commits:
            return
        zygote.wait_some(run, 0.02)


def _told(run: Run, what: str, tally: Tally) -> None:
    tally.runs += 1
    if not told(run.code, run.err):
        tally.blame(f"{what}: exit code {run.code}, {run.where} {run.err[-700:]!r}")


def _again(zygote: Zygote, argv: object, what: str, tally: Tally) -> None:
    run = zygote.run(*argv)
    tally.runs += 1
    if troubled(run):
        tally.blame(f"{what} cannot go on: {run.err[-600:]!r}")


@contextmanager
def _mounted(folder: Path, size: str) -> Iterator[None]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def _resize(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", folder], check=True)


def _used(place: Place) -> int:
    facts = os.statvfs(place.work)
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize // 1024


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    """Without write permission on any file or directory below; `plain` runs obey that even as root."""
    paths = [folder, *folder.rglob("*")]
    modes = [(path, path.lstat().st_mode) for path in paths if not path.is_symlink()]
    for path, mode in modes:
        path.chmod(mode & 0o7555)
    try:
        yield
    finally:
        for path, mode in modes:
            if path.exists():
                path.chmod(mode)
