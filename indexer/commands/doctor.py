"""`indexer doctor`: tests what this machine can decode, compute and reach."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from indexer.commands.index import DEFAULT_ENCODER, asked_of_tables
from indexer.options import device_option, emit, json_option, say, table_options

if TYPE_CHECKING:
    from indexer.doctor.machine import Machine
    from indexer.doctor.report import DoctorReport
    from indexer.doctor.trial import Trial
    from indexer.types import Shard


@click.command("doctor", short_help="What this machine can decode, compute and reach.")
@click.argument("shards", nargs=-1, metavar="[SHARDS]...")
@click.option("--encoder", "name", default=DEFAULT_ENCODER, show_default=True, help="Of the trial.")
@click.option("--weights", metavar="TAG|FILE", help="A tag, a weights file, or `random`. Default: the encoder's own.")
@device_option
@click.option("--precision", type=click.Choice(["bf16", "fp16", "fp32"]), default="bf16", show_default=True)
@click.option("--images", type=click.IntRange(1), default=200, show_default=True, help="In the trial.")
@table_options
@click.option("--strict", is_flag=True, help="Exit 1 if there is a problem.")
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    shards: tuple[str, ...],
    name: str,
    weights: str | None,
    device: str,
    precision: str,
    images: int,
    image_column: str,
    key_column: str,
    image_root: str,
    strict: bool,
    as_json: bool,
) -> None:
    """Test every decoder with a tiny file, measure every device, and check free disk space and the model hub.

    With SHARDS (as for `indexer index`), also read, decode and embed a few hundred of their images, spread over the
    archive, and predict the time of a whole run and its bottleneck. Nothing is written.

    With the address of a database in an object store (s3://bucket/path), try with one small object, which is deleted
    again, whether the store lets one writer at a time write there.
    """
    if not shards and ctx.get_parameter_source("name") is ParameterSource.COMMANDLINE:
        raise click.UsageError("--encoder is of the trial: name SHARDS to try it on.")
    from indexer.doctor.stores import is_database_place

    stores = [address for address in shards if is_database_place(address)]
    shards = tuple(address for address in shards if address not in stores)
    plan: tuple[Shard, ...] = ()
    if shards:
        from indexer.archive.shards import find_shards

        tables = asked_of_tables(image_column, key_column, image_root)
        found = find_shards(shards, tables=tables)  # before the slow part, so that a typo is reported at once
        for note in found.notes:
            say(f"note: {note}", err=True)
        plan = found.shards
    from indexer.doctor.report import examine

    report = examine([("shards", Path(source)) for source in shards if Path(source).exists()], stores)
    if plan:
        from indexer.doctor.trial import trial
        from indexer.encoders import load

        encoder = load(name, weights=weights, precision=precision, device=device)
        report = replace(report, trial=trial(plan, encoder, images))
    emit(report, as_json=as_json, text=_text)
    if strict and report.problems:
        sys.exit(1)


def _text(report: DoctorReport) -> str:
    stores = [(s.address, s.conditional_puts, "", s.detail) for s in report.stores]
    lines = [
        *_machine(report.machine),
        *_table("formats", [(f.name, f.works, f.decoder, f.detail) for f in report.formats]),
        *_table(
            "DICOM transfer syntaxes",
            [(f"{s.uid:<24}{s.name}", s.works, s.decoder, s.detail) for s in report.transfer_syntaxes],
        ),
        *_table("slides", [(s.name, s.works, s.decoder, s.detail)] if (s := report.slides) else []),
        "room",
        *(f"  {d.free_bytes / 1e9:9.1f} GB free  {d.what}: {d.path}" for d in report.machine.disks),
        *(_table("object stores", stores) if stores else []),
        f"model hub: {report.hub}",
        f"encoders with weights here: {', '.join(report.encoders_here) or 'none'}",
    ]
    if report.trial:
        lines += _trial(report.trial)
    lines += [f"problem: {problem}" for problem in report.problems] or ["no problems found"]
    return "\n".join(lines)


def _machine(machine: Machine) -> list[str]:
    lines = [f"{machine.system}, Python {machine.python}, {machine.cores} cores for us", "devices"]
    for device in machine.devices:
        chosen = " (taken by --device auto)" if device.name in machine.default_device.split(",") else ""
        speeds = ", ".join(f"{precision} {speed:,.0f}" for precision, speed in device.gflops.items())
        computes = device.trouble or f"{speeds} GFLOP/s: quickest in {device.quickest}"
        lines.append(f"  {device.name}{chosen}  {device.model}, {device.memory_bytes / 2**30:.0f} GiB; {computes}")
    here = [f"{name} {version}" for name, version in machine.versions.items() if version]
    absent = [name for name, version in machine.versions.items() if not version]
    lines.append(f"versions: {', '.join(here)}")
    return lines + ([f"not installed: {', '.join(absent)}"] if absent else [])


def _table(title: str, rows: list[tuple[str, bool, str, str]]) -> list[str]:
    width = max((len(name) for name, *_ in rows), default=0)
    drawn = [
        f"  {'yes' if works else 'NO ':<3}  {name:<{width}}  {decoder}{'  ' if decoder and detail else ''}{detail}"
        for name, works, decoder, detail in rows
    ]
    return [title, *(drawn or ["  none"])]


def _trial(trial: Trial) -> list[str]:
    failed = ", ".join(f"{n} x {reason}" for reason, n in trial.reasons.items())
    return [
        f"trial of {trial.images} images with {trial.encoder} on {trial.device} ({trial.threads} threads)",
        *([f"  failed: {failed}"] if failed else []),
        f"  reading {trial.read_per_second:,.1f} images/s, decoding {trial.decode_per_second:,.1f}, "
        f"model {trial.model_per_second:,.1f}",
        f"  expected: {trial.expected_per_second:,.1f} images/s, a million in {trial.hours_a_million:,.1f} hours",
        f"  {trial.bottleneck}",
    ]
