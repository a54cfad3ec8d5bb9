"""Shared by both command lines: lazily imported commands, option decorators, output, errors. Imports click only."""

from __future__ import annotations

import errno
import importlib
import json
import math
import re
import signal
import sys
import threading
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from indexer.errors import IndexerError
from indexer.jsonable import jsonable, printable
from indexer.malloc import share_one_heap_with_arrow
from indexer.redact import redacted
from indexer.streams import SURROGATES, is_utf8, take_any_text

SYSTEM_ERRORS = (  # caused by the machine, not by a bug: reported in one line without traceback
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE,
    errno.ENFILE, errno.ENAMETOOLONG, errno.ESTALE, errno.ETIMEDOUT, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
)  # fmt: skip


class FiniteRange(click.FloatRange):
    """A number in a range, never NaN (for which every comparison is false) or infinite."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        return number if math.isfinite(number) else self.fail(f"{value} is not a finite number.", param, ctx)


SEED = click.IntRange(0, 2**32 - 1)  # which numpy, scikit-learn and FAISS all take


def named(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Callback of an option that names something: "" is refused, which would mean the default."""
    if value == "":
        raise click.BadParameter("the name is empty, as of a variable that is not set.", param=option)
    return value


json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on stdout.")
table_option = click.option(
    "--table", metavar="T", callback=named, help="Table in the database. Default: its only one."
)
where_option = click.option(
    "--where", metavar="SQL", help="Only rows for which this holds, e.g. \"sex = 'F' and age > 60\"."
)
pictures_option = click.option(
    "--pictures-from", multiple=True, metavar="DIR|URL", help="Also read stored images from below here. Repeatable."
)
download_option = click.option(
    "--download", is_flag=True, help="Fetch the encoder's weights where this machine lacks them; else no network."
)
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, openvino, cuda or cuda:N.")


def _regular(_context: click.Context, _option: click.Parameter, value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise click.BadParameter(f"{value!r}: {error}") from error
    return value


def patient_pattern_option(words: str) -> Callable[[Any], Any]:
    """The option --patient-pattern, a regular expression that is checked."""
    return click.option("--patient-pattern", default="", metavar="REGEX", callback=_regular, help=words)


def frames_option(default: str) -> Callable[[Any], Any]:
    """The option --frames; the default comes from the record that the option fills."""
    return click.option(
        "--frames",
        type=click.Choice(["all", "first", "middle"]),
        default=default,
        show_default=True,
        help="Which frames, pages or slices of an image with several become rows.",
    )


def time_option(default: str) -> Callable[[Any], Any]:
    """The option --time; the default comes from the record that the option fills."""
    return click.option(
        "--time",
        type=click.Choice(["first", "all"]),
        default=default,
        show_default=True,
        help="Of a series of volumes in one file (NIfTI 4-D): the first, with a flag, or all; --frames is of each.",
    )


def slice_options(command: Any) -> Any:
    """The options --plane and --channels of `indexer index`: how slices of volumes become pictures."""
    for option in (
        click.option(
            "--channels",
            type=click.Choice(["1", "3"]),
            default="1",
            show_default=True,
            help="3: a slice between its neighbours along the normal, as the three channels. For NIfTI, frames with "
            "positions, and series of pack --series; a grey image of one part is itself three times.",
        ),
        click.option(
            "--plane",
            type=click.Choice(["axial", "coronal", "sagittal"]),
            default="axial",
            show_default=True,
            help="Plane of the slices of NIfTI volumes.",
        ),
    ):
        command = option(command)
    return command


def table_options(command: Any) -> Any:
    """The options --image-column, --key-column and --image-root of sources that are tables."""
    for name, metavar, words in (
        (
            "--image-root",
            "DIR",
            "Folder or URL that the paths in --image-column are below. Default: the table's folder.",
        ),
        ("--key-column", "NAME", "Column of a Parquet or CSV file that names each row."),
        ("--image-column", "NAME", "Column of a Parquet or CSV file with the images, their paths or addresses."),
    ):
        command = click.option(name, default="", metavar=metavar, help=words)(command)
    return command


def slide_options(command: Any) -> Any:
    """The options of `indexer index` that cut slides into tiles: --tile, --mpp, and those that need them."""
    for option in (
        click.option("--coords", default="", metavar="FILE|DIR", help="Tiles of TRIDENT's or CLAM's .h5 coordinates."),
        click.option(
            "--mpp-of",
            default="",
            metavar="FILE",
            help="CSV: slide, mpp. For slides that do not state their resolution.",
        ),
        click.option(
            "--saturation",
            type=click.IntRange(0, 254),
            metavar="N",
            help="Tissue is where the saturation, of 0 to 255, is above N at 8 micrometres a pixel (median of 7 x 7). "
            "Default: 15.",
        ),
        click.option(
            "--tissue",
            type=FiniteRange(0, 1),
            metavar="SHARE",
            help="Leave out tiles with a smaller share of tissue; 0 takes every tile. Default: 0.25.",
        ),
        click.option("--mpp", type=FiniteRange(0.02, 100), metavar="F", help="Micrometres a pixel of a tile."),
        click.option(
            "--tile",
            type=click.IntRange(16, 4096),
            metavar="N",
            help="SHARDS are whole slides: each tile of N x N pixels is a row. Needs --mpp and the extra `wsi`.",
        ),
    ):
        command = option(command)
    return command


class LazyGroup(click.Group):
    """A command group that imports a command's module only when the command is run, so that -h is fast.

    `commands_help` maps command name → one line of help; the command is `command` in the module `<package>.<name>`,
    or in the one that `elsewhere` gives. Its threads share one heap, except for those of `many_heaps`, which decode
    many images in parallel.
    """

    def __init__(
        self, *, name: str, package: str, commands_help: Mapping[str, str], doc: str, epilog: str,
        version: Callable[[], str], elsewhere: Mapping[str, str] | None = None, many_heaps: Container[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(
            name=name, help=doc, epilog=epilog, context_settings={"help_option_names": ["-h", "--help"]},
            params=[_version_option(version)],
        )  # fmt: skip
        self._package, self._commands_help = package, commands_help
        self._elsewhere, self._many_heaps = elsewhere or {}, many_heaps

    def module_of(self, command: str) -> str:
        """The dotted name of a command's module."""
        if command in self._elsewhere:
            return self._elsewhere[command]
        return f"{self._package}.{command.replace('-', '_')}"

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(self._commands_help)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - as above
        if cmd_name not in self._commands_help:
            return None
        if cmd_name not in self._many_heaps:
            share_one_heap_with_arrow()  # before Lance starts its threads
        module = importlib.import_module(self.module_of(cmd_name))
        found: click.Command = module.command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - as above
        with formatter.section("Commands"):
            formatter.write_dl(list(self._commands_help.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self._commands_help and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], self._commands_help, 3)
            hint = f" Did you mean {', '.join(near)}?" if near else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def _version_option(words: Callable[[], str]) -> click.Option:
    def show(ctx: click.Context, param: click.Parameter, value: bool) -> None:  # noqa: ARG001 - click's
        if value and not ctx.resilient_parsing:
            click.echo(words())
            ctx.exit()

    return click.Option(
        ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=show,
        help="Print the version and the table format, and exit.",
    )  # fmt: skip


def run(command: click.Command) -> None:
    """Run a command line and exit: 0 success, 1 IndexerError or system error (one line), 2 usage error, 130 Ctrl-C.

    Any other exception is a bug and keeps its traceback.
    """
    take_any_text()
    try:
        with _ctrl_c_stays_itself():
            code = command.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        sys.exit(130)
    except IndexerError as error:
        click.echo(f"error: {one_line(redacted(str(error)))}", err=True)
        sys.exit(1)
    except BrokenPipeError:  # the reader of `indexer … | head` has exited; avoids Python's message at exit
        sys.stderr.close()
        sys.exit(1)
    except UnicodeEncodeError:
        odd = next((text for text in sys.argv[1:] if SURROGATES.search(text)), None)
        if odd is None:
            raise
        click.echo(f"error: {printable(odd)} is not UTF-8 text, as keys, names and filters are.", err=True)
        sys.exit(1)
    except OSError as error:
        if error.errno not in SYSTEM_ERRORS:
            raise
        click.echo(f"error: {one_line(_system_words(error))}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)


@contextmanager
def _ctrl_c_stays_itself() -> Iterator[None]:
    """Re-raises KeyboardInterrupt where a library (Lance) has wrapped Ctrl-C in its own error."""
    pressed = False

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed = True
        signal.default_int_handler(number, frame)

    default = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so for a shell's background jobs
    ours = default and threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, note) if ours else None
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        if ours:
            signal.signal(signal.SIGINT, before)


def _system_words(error: OSError) -> str:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    where = f"{error.filename}: " if error.filename else ""
    cause = "no space left on the disk" if full else str(error.strerror)
    way_out = "Free some space" if full else "Correct this"
    return f"{where}{cause}. {way_out} and run the same command again; what is stored stays."


def say(text: str, *, err: bool = False, nl: bool = True) -> None:
    """Print a text: the only door of the commands to a terminal. What is piped elsewhere stays as it is."""
    shown = err or sys.stdout.isatty()
    click.echo(printable(text) if shown else text, err=err, nl=nl)


def one_line(message: str) -> str:
    """`message` without control characters: it may quote file names or bytes that hold terminal escape sequences."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in message)


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 image", "2,000 images"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def emit(value: Any, *, as_json: bool, text: Callable[[Any], str] | None = None) -> None:
    """Print a result on stdout, as JSON or as `text` formats it (default: `plain`)."""
    if as_json:
        say(json.dumps(jsonable(value), ensure_ascii=not is_utf8(sys.stdout), allow_nan=False))
    else:
        say((text or plain)(value))


def plain(value: Any) -> str:
    """A record as `key: value` lines; a sequence of records as tab-separated lines below a header."""
    value = jsonable(value)
    if isinstance(value, dict):
        width = max(map(len, value), default=0)
        return "\n".join(f"{k:<{width}}  {cell(v)}" for k, v in value.items())
    if isinstance(value, Sequence) and value and isinstance(value[0], dict):
        return "\n".join(["\t".join(value[0]), *("\t".join(cell(v) for v in row.values()) for row in value)])
    return cell(value)


def cell(value: Any) -> str:
    """A value as a table of text shows it, on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{k} {cell(v)}" for k, v in value.items()) or "-"
    if isinstance(value, list):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "-" if value is None else str(value).replace("\t", " ").replace("\n", " ")
