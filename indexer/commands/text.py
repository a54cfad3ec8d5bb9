"""`indexer text`: stores class-text vectors for zero-shot probes beside the table."""

from __future__ import annotations

from pathlib import Path

import click

from indexer.options import device_option, download_option, emit, json_option, table_option


@click.command("text", short_help="Store class-text vectors for zero-shot probes.")
@click.argument("db")
@click.option(
    "--prompts",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help='JSON {"class": ["prompt", …]}, or a CSV with the columns class and prompt.',
)
@click.option("--task", metavar="NAME", help="Name of this set of classes. Default: the file's name.")
@click.option("--weights", metavar="FILE", help="Where the encoder's weights file is now.")
@download_option
@table_option
@device_option
@json_option
def command(
    db: str,
    prompts: Path,
    task: str | None,
    weights: str | None,
    download: bool,
    table: str | None,
    device: str,
    as_json: bool,
) -> None:
    """Embed class prompts with the text tower of the encoder that made DB's table, one unit vector a class.

    `probes zero-shot` scores the stored images with them, without the model. A set of the same name is replaced.
    """
    from indexer.encoders.prompts import class_vectors, read_prompts
    from indexer.store.rows import TextVectors
    from indexer.store.table import EmbeddingStore
    from indexer.store.text import write_text

    classes = read_prompts(prompts)
    store = EmbeddingStore.open(db, table)
    from indexer.encoders import load_spec  # imports torch, so after the other checks

    encoder = load_spec(store.spec, weights=weights, device=device, download=download)
    vectors = class_vectors(encoder, classes)
    scale = 1.0 if encoder.logit_scale is None else encoder.logit_scale
    name = task or prompts.stem
    write_text(store, name, TextVectors(tuple(classes), vectors, scale, encoder.logit_bias))
    facts = {
        "table": store.name,
        "task": name,
        "classes": {c: len(group) for c, group in classes.items()},
        "logit_scale": scale,
        "logit_bias": encoder.logit_bias,
    }
    emit(facts, as_json=as_json)
