"""`indexer embed`: vectors of image files by a table's encoder, without storing them in the table."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.errors import InputError, PixelError
from indexer.options import device_option, download_option, emit, json_option, table_option


@click.command("embed", short_help="Embed image files with a table's encoder, without storing them.")
@click.argument("db")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="FILE.npy", help="Raw vectors (n, dim) float32."
)
@click.option("--weights", metavar="FILE", help="Where the encoder's weights file is now.")
@download_option
@table_option
@device_option
@json_option
@click.pass_context
def command(
    ctx: click.Context,
    db: str,
    files: tuple[Path, ...],
    out: Path,
    weights: str | None,
    download: bool,
    table: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Embed FILES with the encoder that made DB's table, and write their raw vectors to --out.

    Prints the keys in the vectors' order, and each file that could not be decoded with its reason; exit 1 if any.
    """
    if out.suffix != ".npy":
        raise InputError(f"--out {out}: vectors are written as .npy. Give a name that ends so: {out}.npy.")
    import numpy as np

    from indexer.archive.samples import split_name
    from indexer.encoders import load_spec
    from indexer.output_file import require_writable, written_whole
    from indexer.pixels import decode
    from indexer.store.table import EmbeddingStore

    require_writable(out, "--out")
    store = EmbeddingStore.open(db, table)
    encoder = load_spec(store.spec, weights=weights, device=device, download=download)
    keys: list[str] = []
    failures: list[dict[str, str]] = []
    blocks = [np.empty((0, store.dim), np.float32)]
    for start in range(0, len(files), encoder.batch_size):
        pictures = []
        for file in files[start : start + encoder.batch_size]:
            try:
                suffix = split_name(file.name)[1]
                (picture,) = decode(file.read_bytes(), suffix, store.spec.pixels, frames="middle")
                pictures.append(picture.pixels)
                keys.append(str(file))
            except PixelError as error:
                failures.append({"key": str(file), "reason": error.reason, "detail": error.detail})
        if pictures:
            blocks.append(encoder.embed(np.stack(pictures)))
    with written_whole(out) as partial, partial.open("wb") as file_out:
        np.save(file_out, np.concatenate(blocks))
    facts = {"fingerprint": store.spec.fingerprint, "vectors": str(out), "keys": keys, "failures": failures}
    emit(facts, as_json=as_json)
    ctx.exit(1 if failures else 0)
