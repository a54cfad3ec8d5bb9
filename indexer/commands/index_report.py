"""What `indexer index` and `failures --retry` print of a run, and their exit codes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from indexer.options import counted, emit, say

if TYPE_CHECKING:
    from indexer.types import RunReport, SeriesFlaw


def exit_code(report: RunReport, max_failures: float) -> int:
    """0, 1 for shards that are cut or damaged or for too many failures, 130 for a stopped run."""
    from indexer.pipeline.drive import too_many

    return 130 if report.interrupted else int(report.shards_partial > 0 or too_many(report, max_failures))


def print_report(report: RunReport, *, as_json: bool) -> None:
    """Print the report, and how to resume a stopped run."""
    emit(report, as_json=as_json, text=report_text)
    if report.interrupted:
        say("stopped; finished work is stored. Run the same command again to continue.", err=True)


def command_line() -> tuple[str, ...]:
    """The command line as typed, for the run's record."""
    return (Path(sys.argv[0]).name, *sys.argv[1:])


def report_text(report: RunReport) -> str:
    """The report as text."""
    lines = [
        f"{counted(report.embedded, 'image')} embedded, {report.failed:,} failed, in {report.seconds:.1f} s "
        f"({report.images_per_second:.1f} images/s)",
        f"table {report.table}, encoder {report.encoder} ({report.fingerprint})",
        f"shards: {report.shards_done} done, {report.shards_skipped} skipped (done before), "
        f"{report.shards_partial} cut or damaged",
    ]
    if report.reused:
        lines.append(f"of the images embedded, {report.reused:,} kept their vectors from before: same bytes")
    if report.adopted:
        lines.append(
            f"{counted(report.adopted, 'image')} adopted: the table has them with the same key and bytes under another "
            "address. If the archive moved, `indexer relocate DB OLD NEW` moves the addresses"
        )
    lines += [f"failed: {n} x {reason}" for reason, n in report.reasons.items()]
    lines += [f"noted: {n} x {flag}" for flag, n in report.flags.items()]
    lines += [_flaw_text(flaw) for flaw in report.series_flaws]
    lines += [f"stayed in `meta` only: {n} x {field}" for field, n in report.columns_skipped.items()]
    if report.precision_cosine is not None:
        lines.append(f"reduced precision against fp32 on a sample: cosine >= {report.precision_cosine:.5f}")
    if report.decoder_difference is not None:
        lines.append(
            f"JPEG decoded on the GPU against the CPU's way: at most {report.decoder_difference:.2f} grey levels"
        )
    if report.images:
        shares = ", ".join(f"{s.name} {s.busy_seconds / (s.threads * report.seconds):.0%}" for s in report.stages)
        lines += [f"busy: {shares}", report.bottleneck]
    lines += [f"warning: {w}" for w in report.warnings]
    if report.series_flaws:
        lines.append("`indexer info DB --by series --flagged` lists each flawed series.")
    if report.failed:
        lines.append("`indexer failures` names each failed image.")
    return "\n".join(lines)


def _flaw_text(flaw: SeriesFlaw) -> str:
    more = ", …" if flaw.series > len(flaw.examples) else ""
    return f"series: {flaw.series:,} x {flaw.flaw} ({', '.join(flaw.examples)}{more})"
