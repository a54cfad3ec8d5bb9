"""The command group `indexer`. Each command is a module in `indexer/commands/`, imported when it is called."""

from __future__ import annotations

from indexer.options import LazyGroup, run
from indexer.store.formats.format import version_words

COMMANDS = {
    "pack": "DICOM tree, image folder or DICOMweb → WebDataset shards.",
    "list": "List an archive into a manifest, a source for index.",
    "index": "Embed shards into a table, each image once.",
    "commit": "Add what the parts of a run left beside a table.",
    "merge": "Add other databases' rows, each shard once; no image is read.",
    "search": "Find the images most like a query image, key, text or vector.",
    "serve": "The search page and the HTTP API, on this machine.",
    "build-ann": "Build or refresh the FAISS index of a table.",
    "labels": "Join label columns from CSV or Parquet to the rows.",
    "relocate": "Give an archive that was moved its new address; nothing is embedded.",
    "delete": "Delete images for good (withdrawn consent), with a receipt.",
    "info": "What a table holds and which encoder made it.",
    "failures": "What could not be embedded, and why; --retry reads just those again.",
    "health": "Check a table and its index by measuring them.",
    "near-duplicates": "Pairs and clusters of near-duplicate images, across groups and splits.",
    "pool": "One vector for each series, slide, study or patient, for search --by.",
    "map": "A 2-D map of a table's images, with the share of neighbours it keeps.",
    "optimize": "Compact the table and clean up old versions.",
    "embed": "Embed image files with a table's encoder, without storing them.",
    "export": "Write the vectors as .npy or Parquet.",
    "text": "Store class-text vectors for zero-shot probes.",
    "encoders": "List the encoders, and which weights are on this machine.",
    "doctor": "What this machine can decode, compute and reach.",
}
UPKEEP = ("relocate", "delete", "info", "failures", "health", "optimize")

group = LazyGroup(
    name="indexer",
    package="indexer.commands",
    commands_help=COMMANDS,
    doc="Embed an image archive once with a frozen encoder; search it and probe it for years.",
    version=version_words,
    elsewhere={
        **{name: f"indexer.commands.upkeep.{name}" for name in UPKEEP},
        **{name: f"indexer.commands.cluster.{name}" for name in ("commit", "merge")},
        "serve": "indexer.serve.command",  # an application, which stands above the commands
    },
    many_heaps=("pack", "index", "serve", "failures", "embed", "doctor"),
    epilog="Data on stdout, progress on stderr; --json on every command. Exit 0 done, 1 error, 2 usage.",
)


def main() -> None:
    run(group)


if __name__ == "__main__":
    main()
