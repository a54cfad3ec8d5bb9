"""The index directory: files of one generation, switched by one atomic replace of the manifest."""

from __future__ import annotations

from pathlib import Path

from indexer.ann.engines.kinds import ENGINES
from indexer.ann.manifest import FILES, NAME, WAY_OUT, FileFact, Manifest
from indexer.ann.vectors import VectorPaths
from indexer.ann.verified import NOTES, Verified, state_of
from indexer.disk import fsync
from indexer.errors import IndexFileError

LINK = "index.faiss"  # the current generation's index under a fixed name, for other programs


def index_path(directory: Path, generation: str) -> Path:
    return directory / FILES["index"].format(generation)


def vector_paths(directory: Path, generation: str) -> VectorPaths:
    return VectorPaths(*(directory / FILES[role].format(generation) for role in ("vectors", "row_ids", "keys")))


def facts_of(directory: Path, generation: str) -> dict[str, FileFact]:
    """Sizes and hashes of a generation's files, after an fsync of each."""
    paths = vector_paths(directory, generation)
    named = {
        "index": index_path(directory, generation),
        "vectors": paths.vectors,
        "row_ids": paths.row_ids,
        "keys": paths.keys,
    }
    for path in named.values():
        fsync(path)
    return {role: FileFact.of(path) for role, path in named.items()}


def publish(directory: Path, manifest: Manifest) -> None:
    """Make this generation the current one. A crash before the last line leaves the previous one current."""
    text = directory / f"{NAME}.{manifest.generation}"
    text.write_text(manifest.to_json())
    fsync(text)
    link = directory / f"{LINK}.{manifest.generation}"
    link.unlink(missing_ok=True)
    link.symlink_to(manifest.files["index"].name)
    fsync(directory)
    text.replace(directory / NAME)
    link.replace(directory / LINK)
    fsync(directory)


def sweep(directory: Path, keep: str) -> None:
    """Remove files of other generations. Processes that have them mapped can still read them."""
    for path in directory.iterdir():
        ours = path.name.startswith(
            ("index-", "vectors-", "row_ids-", "keys-", NOTES.split("{")[0], f"{NAME}.", f"{LINK}.")
        )
        if ours and keep not in path.name:
            path.unlink(missing_ok=True)


def verify(directory: Path, manifest: Manifest, *, whole: bool = False) -> None:
    """Raise IndexFileError unless every file has the size and hash of the manifest.

    A file that was hashed before and has not changed since is not read again, unless `whole`. Of an index that is read,
    the engine then proves the content.
    """
    verified = Verified(directory, manifest.generation)
    for role, fact in manifest.files.items():
        path = directory / fact.name
        try:
            state = state_of(path)
        except FileNotFoundError:
            raise IndexFileError(f"{path} is missing. {WAY_OUT}") from None
        nbytes = state[2]
        if nbytes != fact.nbytes:
            raise IndexFileError(f"{path} has {nbytes} bytes, its manifest says {fact.nbytes}. {WAY_OUT}")
        if not whole and verified.knows(path, state, fact.sha256):
            continue
        if FileFact.of(path) != fact:
            raise IndexFileError(f"{path} ({role}) was altered: its sha256 is not the manifest's. {WAY_OUT}")
        if role == "index":
            ENGINES[manifest.kind].prove(path)
        verified.note(path, state, fact.sha256)
    verified.save()
