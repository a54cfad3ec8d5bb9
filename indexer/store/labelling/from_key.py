"""Columns from the rows' keys: the patient and the study of `p10/s50/1.jpg`, by a regular expression with names."""

from __future__ import annotations

import re

import pyarrow as pa

from indexer.errors import InputError
from indexer.store.labelling.join import add_columns
from indexer.store.table import EmbeddingStore


def label_from_keys(store: EmbeddingStore, pattern: str) -> str:
    """Add a text column for each named group of `pattern`, found anywhere in the key; says what was done.

    Raises InputError.
    """
    way_out = r"Give named groups, as in (?P<patient>patient\d+)/"
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"--from-key {pattern!r}: {error}. {way_out}.") from error
    if not compiled.groupindex:
        raise InputError(f"--from-key {pattern!r} names no group. {way_out}.")
    keys: list[str] = []
    found: dict[str, list[str | None]] = {name: [] for name in compiled.groupindex}
    example, rows = "", 0
    for batch in store.scan(["key"]):
        for key in batch.column("key").to_pylist():
            rows, example = rows + 1, example or key
            match = compiled.search(key)
            if match is not None:
                keys.append(key)
                for name, values in found.items():
                    values.append(match[name])
    if not keys:
        raise InputError(f"--from-key {pattern!r} matches no key, such as {example!r}. Correct it.")
    labels = pa.table({"key": pa.array(keys, pa.string()), **{n: pa.array(v, pa.string()) for n, v in found.items()}})
    add_columns(store, labels)
    return f"from the keys: {', '.join(found)} of {len(keys)} of {rows} rows"
