"""`indexer index`: embeds shards into a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexer.commands.cluster.ways import (
    Slices,
    checked,
    engine_of,
    made_encoder,
    once_free,
    print_part,
    require_fitting,
    way_options,
    ways_of,
)  # fmt: skip
from indexer.commands.index_report import command_line, exit_code, print_report
from indexer.options import (
    SEED,
    FiniteRange,
    device_option,
    frames_option,
    json_option,
    named,
    say,
    slice_options,
    slide_options,
    table_options,
    time_option,
)
from indexer.pipeline.options import RunOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from indexer.archive.tables.named import TableOptions
    from indexer.encoders.encoder import LoadedEncoder
    from indexer.store.table import EmbeddingStore
    from indexer.types import EncoderSpec, Shard, TileRule

DEFAULT_ENCODER = "efficientnet-lite0"  # bundled: works with no model hub


@click.command("index", short_help="Embed shards into a table, each image once.")
@click.argument("sources", nargs=-1, required=True, metavar="SHARDS... DB")
@click.option("--encoder", "name", default=DEFAULT_ENCODER, show_default=True, help="See `indexer encoders`.")
@click.option("--weights", metavar="TAG|FILE", help="A tag, a weights file, or `random`. Default: the encoder's own.")
@click.option("--seed", type=SEED, metavar="N", help="Seed of --weights random. Default: 0.")
@click.option("--table", metavar="T", callback=named, help="Table to write. Default: named after the encoder.")
@device_option
@click.option(
    "--decoder",
    type=click.Choice(["cpu", "gpu"]),
    default="cpu",
    show_default=True,
    help="Decoder of JPEG files. gpu needs CUDA and torchcodec, and a table of its own.",
)
@click.option("--no-compile", is_flag=True, help="On a GPU: do not compile the model. Starts at once, runs slower.")
@click.option(
    "--precision",
    type=click.Choice(["bf16", "fp16", "fp32", "int8"]),
    default="bf16",
    show_default=True,
    help="int8 (extra int8, on the CPU): calibrated on a sample of the images, refused where neighbours would change.",
)
@click.option(
    "--fit", type=click.Choice(["crop", "squash", "pad"]), help="Fit to the encoder's square. Default: as published."
)
@click.option(
    "--window", default="file", show_default=True, help="Grey values: file, percentile, minmax, full, C,W or a preset."
)
@slice_options
@frames_option(RunOptions.frames)
@time_option(RunOptions.time)
@click.option(
    "--changed",
    type=click.Choice(["error", "replace"]),
    default=RunOptions.changed,
    show_default=True,
    help="For a shard whose content changed since it was indexed.",
)
@click.option(
    "--gone",
    type=click.Choice(["keep", "drop"]),
    default=RunOptions.gone,
    show_default=True,
    help="For rows whose file is gone from a folder that you name; they are counted either way.",
)
@click.option(
    "--key",
    "split",
    type=click.Choice(["last-dot", "first-dot"]),
    help="Where a member's name in a tar is cut: s1.seg.png is an image of its own, s1.seg (last-dot), or as in "
    "webdataset a member of sample s1, whose image is s1.jpg (first-dot). Members that are passed over are counted. "
    "Default: the table's; for a new one last-dot, as names of DICOM files hold many dots.",
)
@click.option(
    "--prefix",
    type=click.IntRange(0),
    metavar="N",
    help="Begin each key with the last N parts of the path of its folder or tar: with 1, two/train gives train/a.png. "
    "Default: the table's; 0 for a new one.",
)
@click.option("--hash-content", is_flag=True, help="Detect changed shards by their bytes, not by size and time.")
@click.option(
    "--workers",
    type=click.IntRange(1),
    help="Threads that decode and embed, or actors of --engine ray. Default: one a core.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    help="Processes that read and decode for one encoder. Default: for a GPU 3 for 4 cores; 1 is this process alone.",
)
@click.option(
    "--max-failures",
    type=FiniteRange(0, 1),
    default=RunOptions.max_failures,
    show_default=True,
    help="Stop early when a larger share of the images fails.",
)
@click.option(
    "--commit-rows",
    type=click.IntRange(1),
    default=RunOptions.commit_rows,
    show_default=True,
    metavar="N",
    help="Commit once N rows are embedded. Fewer: a crash loses less, a run takes longer.",
)
@way_options
@table_options
@slide_options
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    *,
    sources: tuple[str, ...],
    name: str,
    weights: str | None,
    seed: int | None,
    table: str | None,
    device: str,
    decoder: str,
    no_compile: bool,
    precision: str,
    fit: str | None,
    window: str,
    plane: str,
    channels: str,
    frames: str,
    time: str,
    changed: str,
    gone: str,
    split: str | None,
    prefix: int | None,
    hash_content: bool,
    workers: int | None,
    processes: int | None,
    max_failures: float,
    commit_rows: int,
    part: str | None,
    no_commit: bool,
    engine_name: str,
    address: str,
    gpus: float,
    image_column: str,
    key_column: str,
    image_root: str,
    tile: int | None,
    mpp: float | None,
    tissue: float | None,
    saturation: int | None,
    mpp_of: str,
    coords: str,
    as_json: bool,
) -> None:
    """Embed SHARDS into the table of database DB, each readable image once.

    SHARDS: folders of images, tar (also .gz, .bz2, .xz, .zst), zip, Parquet, .npz, LMDB or MDS files, CSV or Parquet
    files that list images by path or URL (--image-column), folders of archives, globs in quotes, braces {0000..0099},
    or URLs (pipe:, http:, s3:). After a stop, run the same command again: finished work is skipped.

    Keys: the path in a folder or zip, without its suffix in a tar; NAME/row in NAME.parquet, NAME/split/row in
    NAME.npz, FOLDER/NAME/row in NAME.mds, LMDB's own; the path or URL as listed; or --key-column. Other columns become
    columns of the table.

    Whole slides (--tile 256 --mpp 0.5): each tile with tissue is a row with the key SLIDE#x,y and the columns slide,
    part_x and part_y (of level 0), part_level, part_mpp, part_tissue, and those of slides.csv in the folder, which
    names the slides in its column slide.

    Several machines: --part I/N needs no other program; each part embeds its share and commits in turn. --engine ray
    uses a Ray cluster, for which this process commits. On Slurm, in one job, and on Kubernetes as a KubeRay RayJob:

    \b
      export RAY_AUTH_MODE=token; (umask 077; ray get-auth-token --generate > /dev/null)
      srun -N1 -n1 -w $HEAD ray start --head --port=6379 --block &
      srun -N$((N-1)) -x $HEAD ray start --address=$HEAD:6379 --block &
      indexer index SHARDS DB --engine ray --address $HEAD:6379
      entrypoint: indexer index SHARDS s3://bucket/db --engine ray --address auto --gpus-per-worker 1
    """  # noqa: D301 - click takes a backspace for lines that it leaves as they are
    tiles = _tile_rule(
        tile, mpp, {"tissue": tissue, "saturation": saturation}, {"--mpp-of": mpp_of, "--coords": coords}
    )
    if seed is not None and weights != "random":
        raise click.UsageError("--seed draws random weights: give it with --weights random")
    if len(sources) < 2:
        raise click.UsageError("name the shards and, last, the database: indexer index SHARDS... DB")
    require_fitting(
        part=part,
        no_commit=no_commit,
        gone=gone,
        engine=engine_name,
        address=address,
        gpus=gpus,
        precision=precision,
        processes=processes,
    )
    from indexer.archive.shards import find_shards
    from indexer.archive.slides.find import SlideOptions, find_slides
    from indexer.pixels.window import parse_window

    if len(parse_window(window)) == 3 and channels == "3":  # both before a table is created
        raise click.UsageError("--channels 3 takes one window: three would fill the three channels")
    ways = ways_of(part, no_commit=no_commit, ray=engine_name == "ray", address=address, gpus=gpus)
    tables = asked_of_tables(image_column, key_column, image_root)
    # Before slow imports: a typing error is reported at once
    if tiles is None:
        found = find_shards(sources[:-1], hash_content=hash_content, tables=tables)
    else:
        found = find_slides(sources[:-1], SlideOptions(tiles, coords, mpp_of), hash_content=hash_content)
    for note in found.notes:
        say(f"note: {note}", err=True)
    from indexer.pipeline.drive import Hooks
    from indexer.pipeline.parts.embed import index_part
    from indexer.pipeline.run import index_by
    from indexer.progress.terminal import Terminal
    from indexer.store.names import default_table

    if weights == "random":
        weights = f"random:{seed or 0}"
    options = RunOptions(
        frames=frames, time=time, changed=changed, gone=gone, workers=workers, processes=processes,
        max_failures=max_failures, commit_rows=commit_rows, command=command_line(),
    )  # fmt: skip
    kind = {
        "weights": weights, "precision": precision, "device": device, "fit": fit, "window": window, "decoder": decoder,
    }  # fmt: skip
    slices = Slices(plane, int(channels))
    make = partial(made_encoder, slices, name, compiled=not no_compile, **kind)
    # parts must not each calibrate an encoder of their own
    int8 = partial(_int8, slices, name, kind, found.shards if part is None else None, sources[-1], table)
    folders = [str(Path(source).resolve()) for source in sources[:-1] if Path(source).is_dir()]
    with engine_of(ways, int8 if precision == "int8" else make, options) as engine:
        place = (sources[-1], table or default_table(engine.spec.name), engine.spec, (split, prefix), tiles)
        store = once_free(lambda: _store(*place), part=ways.part is not None)
        if split == "first-dot" and any(shard.kind != "tar" for shard in found.shards):
            say("note: --key is about tars: in other sources every image is a row by its own name", err=True)
        if no_compile and engine.device == "cpu":
            say("note: --no-compile changes nothing here: nothing is compiled on a CPU", err=True)
        hooks = Hooks(Terminal(), checked(engine))
        if ways.part is not None:
            report, committed = index_part(engine, found.shards, store, options, ways.part, hooks)
            print_part(report, committed, as_json=as_json)
            ctx.exit(exit_code(report, max_failures) or int(committed is not None and not committed.whole))
        report = index_by(engine, found.shards, store, options, hooks, folders=folders)
    print_report(report, as_json=as_json)
    ctx.exit(exit_code(report, max_failures))


def _int8(
    slices: Slices, name: str, kind: dict[str, Any], shards: Sequence[Shard] | None, database: str, table: str | None
) -> LoadedEncoder:
    """The int8 encoder of the table, calibrated on `shards` for a new one."""
    from indexer.encoders.loading import described
    from indexer.pipeline.sampling.int8_encoder import int8_encoder
    from indexer.store.names import default_table

    definition, spec = described(name, **kind)
    spec = replace(spec, pixels=slices.of(spec.pixels))
    return int8_encoder(definition, spec, shards, database, table or default_table(spec.name), _note)


def _note(line: str) -> None:
    say(line, err=True)


def _tile_rule(
    tile: int | None, mpp: float | None, shares: Mapping[str, float | None], files: Mapping[str, str]
) -> TileRule | None:
    """The rule that --tile asks for, None without it. Raises UsageError where options are missing or mean nothing."""
    from indexer.types import TileRule

    given = {name: value for name, value in shares.items() if value is not None}
    if tile is None:
        others = [f"--{name}" for name in given] + [flag for flag, value in files.items() if value]
        if mpp is not None or others:
            raise click.UsageError(f"{(others or ['--mpp'])[0]} is about slides: give it with --tile and --mpp")
        return None
    if mpp is None:
        raise click.UsageError("--tile needs --mpp, the micrometres a pixel of a tile: --tile 256 --mpp 0.5")
    return TileRule(tile, mpp, **given)  # type: ignore[arg-type]  # click's types of each option


def _store(
    database: str, table: str, spec: EncoderSpec, key: tuple[str | None, int | None], tiles: TileRule | None
) -> EmbeddingStore:
    """The table, made where there is none; its rules must be those that were asked for, of its keys if any was."""
    split, prefix = key
    from indexer.store.table import EmbeddingStore
    from indexer.types import KeyRule

    keys = KeyRule(split or KeyRule.split, prefix or KeyRule.prefix)
    store = EmbeddingStore.create(database, table, spec, keys, tiles)
    store.require_keys(split=split, prefix=prefix)
    store.require_tiles(tiles)
    return store


def asked_of_tables(image_column: str, key_column: str, image_root: str) -> TableOptions:
    """The options of `options.table_options` as one record."""
    from indexer.addresses import is_remote
    from indexer.archive.tables.named import TableOptions

    local = image_root and not is_remote(image_root)
    return TableOptions(image_column, key_column, str(Path(image_root).resolve()) if local else image_root)
