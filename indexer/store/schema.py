"""Arrow schemas of the tables, and the conversion of sample metadata to typed, nullable columns."""

from __future__ import annotations

import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from json.encoder import encode_basestring
from typing import Any

import numpy as np
import pyarrow as pa

from indexer.redact import redacted
from indexer.store.formats.format import FORMAT, TableFacts, new_facts, new_identity, package_version
from indexer.types import EmbeddingBatch, EncoderSpec, Failure, KeyRule, TileRule

MAX_COLUMNS = 256  # metadata with data as field names would otherwise add a column for each row
MAX_TEXT = 32_768
COLUMN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")

SYSTEM_COLUMNS = (
    "key", "shard", "member", "offset", "nbytes", "suffix", "part", "content", "meta", "norm", "vector",
)  # fmt: skip
# Lance adds columns of these names to what it reads: a table with a stored column of such a name cannot be scanned.
UNREADABLE = ("_rowid", "_rowaddr", "_rowoffset", "_row_created_at_version", "_row_last_updated_at_version")

_META = json.JSONEncoder(ensure_ascii=False, sort_keys=True)

PART_COLUMN = "part_"  # prefix of the columns of a part's facts; reserved, so no metadata or label field may have it


def table_schema(spec: EncoderSpec, keys: KeyRule, tiles: TileRule | None) -> pa.Schema:
    """Schema of the main table without metadata columns. Lance's merge requires `key` as declared primary key."""
    encoder = json.loads(spec.to_json())
    rule = None if keys == KeyRule() else asdict(keys)
    facts = TableFacts(
        FORMAT, new_identity(), package_version(), encoder, spec.fingerprint, rule, asdict(tiles) if tiles else None
    )
    return pa.schema(
        [
            pa.field("key", pa.string(), False, metadata={"lance-schema:unenforced-primary-key": "true"}),
            pa.field("shard", pa.string(), False),
            pa.field("member", pa.string(), False),
            pa.field("offset", pa.int64(), False),
            pa.field("nbytes", pa.int64(), False),
            pa.field("suffix", pa.string(), False),
            pa.field("part", pa.string(), False),
            pa.field("content", pa.string(), False),
            pa.field("meta", pa.string(), False),
            pa.field("norm", pa.float32(), False),
            pa.field("vector", pa.list_(pa.float16(), spec.dim), False),
        ],
        metadata=facts.to_metadata(),
    )


LEDGER_SCHEMA = pa.schema(
    [
        pa.field("shard", pa.string(), False),
        pa.field("url", pa.string(), False),
        pa.field("identity", pa.string(), False),
        pa.field("status", pa.string(), False),  # done | partial
        pa.field("samples", pa.int64(), False),
        pa.field("embedded", pa.int64(), False),
        pa.field("failed", pa.int64(), False),
        pa.field("table_version", pa.int64(), False),
        pa.field("finished_at", pa.timestamp("us", tz="UTC"), False),
        pa.field("adopted", pa.int64(), False),
    ]
)
FAILURE_SCHEMA = pa.schema(
    [pa.field(n, pa.string(), False) for n in ("shard", "key", "stage", "reason", "detail")]
    + [pa.field(n, pa.int64(), False) for n in ("offset", "nbytes")]
    + [pa.field(n, pa.string(), False) for n in ("suffix", "member")]
)


def side_schema(columns: pa.Schema, identity: str) -> pa.Schema:
    """Schema of a side table, marked with the format and the identity of its main table."""
    return columns.with_metadata(new_facts(identity).to_metadata())


def completed(rows: pa.Table, columns: pa.Schema) -> pa.Table:
    """Rows of a side table with missing columns added, which hold "", 0 or the epoch."""
    for field in columns:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.repeat(default_of(field.type), rows.num_rows))
    return rows


def default_of(kind: pa.DataType) -> pa.Scalar:
    """The value of a column of this type in rows written before the column existed."""
    return pa.scalar("" if pa.types.is_string(kind) else 0, kind)


def failures_table(failures: Sequence[Failure]) -> pa.Table:
    columns = {f.name: [getattr(x, f.name) for x in failures] for f in FAILURE_SCHEMA}
    columns["detail"] = [redacted(detail) for detail in columns["detail"]]  # an error message may contain an address
    # a decoder's message may contain bytes that are not text
    columns["detail"] = [text.encode("utf-8", "replace").decode() for text in columns["detail"]]
    return pa.table(columns, schema=FAILURE_SCHEMA)


def rows_table(batches: Iterable[EmbeddingBatch], known: pa.Schema) -> tuple[pa.Table, list[pa.Field], Counter[str]]:
    """The batches as one Arrow table.

    Returns the table, its metadata columns that `known` lacks, and the number of values of each field that stayed in
    `meta` only ("age: not int64" → 3).
    """
    batches = list(batches)
    rows = [row for batch in batches for row in batch.rows]
    places, metadata = [row.place for row in rows], [row.metadata for row in rows]
    uniform = _uniform(metadata)
    arrays: dict[str, Any] = {
        "key": [row.key for row in rows],
        "shard": pa.array([p.shard for p in places], pa.string()),
        "member": [p.member for p in places],
        "offset": [p.offset for p in places],
        "nbytes": [p.nbytes for p in places],
        "suffix": [p.suffix for p in places],
        "part": pa.array([p.part for p in places], pa.string()),
        "content": [row.content for row in rows],
        "meta": _meta_texts(metadata, uniform),
        "norm": np.concatenate([b.norms for b in batches]) if batches else [],
        "vector": _vectors([b.vectors for b in batches], known.field("vector").type),
    }
    skipped = Counter[str]()
    of_parts = [_of_part(row.facts) if row.facts else row.facts for row in rows]
    extra: list[pa.Field] = []
    for values, columns_of_values, facts in ((of_parts, _uniform(of_parts), True), (metadata, uniform, False)):
        fields, columns = _typed_columns(values, columns_of_values, known, skipped, facts=facts)
        extra += fields
        arrays |= columns
    schema = pa.schema([*known, *extra], metadata=known.metadata)
    return pa.table([pa.array(arrays[f.name], f.type) for f in schema], schema=schema), extra, skipped


def _of_part(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{PART_COLUMN}{name}": fact for name, fact in facts.items()}


def _meta_texts(rows: Sequence[Mapping[str, Any]], uniform: Mapping[str, list[Any]]) -> list[str]:
    """The rows' metadata as JSON, as `_META` writes it."""
    if not uniform:
        return [_META.encode(fields) for fields in rows]
    names = sorted(uniform)
    pairs = (f"{encode_basestring(name).replace('%', '%%')}: %s" for name in names)
    text = f"{{{', '.join(pairs)}}}"
    return [text % values for values in zip(*(_json(uniform[name]) for name in names), strict=True)]


def _json(column: list[Any]) -> Iterable[str]:
    kinds = set(map(type, column))
    if kinds == {str}:
        return map(encode_basestring, column)
    return map(int.__repr__ if kinds == {int} else _META.encode, column)


def _vectors(blocks: list[Any], kind: pa.DataType) -> pa.Array:
    flat = np.concatenate(blocks).reshape(-1) if blocks else np.empty(0, np.float16)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float16()), type=kind)


def _typed_columns(
    rows: Sequence[Mapping[str, Any]],
    uniform: dict[str, list[Any]],
    known: pa.Schema,
    skipped: Counter[str],
    *,
    facts: bool,
) -> tuple[list[pa.Field], dict[str, pa.Array]]:
    """The rows' facts or metadata, `_uniform` of which is given, as columns: values of the columns in `known`, and new
    columns with their fields.
    """
    own = [name for name in known.names if name not in SYSTEM_COLUMNS and name.startswith(PART_COLUMN) == facts]
    values: dict[str, list[Any]] = {name: [] for name in own}
    room = MAX_COLUMNS - len(values)
    regular = _regular(uniform, known, room, facts=facts)
    values |= regular
    for i, fields in enumerate(rows if not regular else ()):
        for name, value in fields.items():
            if name not in values:
                cause = None if facts else _unfit_name(name, room)
                if cause or value is None or _kind(value) is None:
                    if cause and _kind(value) is not None:
                        skipped[f"{name}: {cause}"] += 1
                    continue  # None has no type; lists and objects stay in `meta`
                room -= 1
                values[name] = []
            column = values[name]
            column.extend([None] * (i - len(column)))
            column.append(value)
    extra: list[pa.Field] = []
    arrays: dict[str, pa.Array] = {}
    for name, column in values.items():
        column.extend([None] * (len(rows) - len(column)))
        kind = known.field(name).type if name in known.names else _first_kind(column)
        if name not in known.names:
            extra.append(pa.field(name, kind))
        plain = _plain(column, kind)
        arrays[name] = pa.array([_cast(v, kind, name, skipped) for v in column], kind) if plain is None else plain
    return extra, arrays


def _regular(uniform: dict[str, list[Any]], known: pa.Schema, room: int, *, facts: bool) -> dict[str, list[Any]]:
    """The columns of rows that all have the same fields, with plain values; none of other rows.

    Most archives' rows are so, and it costs a fifth.
    """
    new = [name for name in uniform if name not in known.names]
    if len(new) > room or (not facts and any(_unfit_name(name, 1) for name in uniform)):
        return {}
    if any(name.startswith(PART_COLUMN) != facts for name in uniform):
        return {}
    kinds = {name: set(map(type, column)) - {type(None)} for name, column in uniform.items()}
    if not all(kind <= _TYPES for kind in kinds.values()):
        return {}
    there = [name for name in uniform if kinds[name] or name not in new]
    there.sort(
        key=lambda name: next((i for i, value in enumerate(uniform[name]) if value is not None), len(uniform[name]))
    )
    return {name: uniform[name] for name in there}  # in the order in which values come


def _uniform(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows that all have the same fields in the same order; none of other rows."""
    names = tuple(rows[0]) if rows else ()
    if not names or any(tuple(fields) != names for fields in rows):
        return {}
    return {name: [fields[name] for fields in rows] for name in names}


def _plain(column: list[Any], kind: pa.DataType) -> pa.Array | None:
    """A column whose values are None or of its type, and within its bounds; None for any other."""
    if set(map(type, column)) - {type(None)} != {_OF_KIND.get(kind)}:
        return None
    there = [value for value in column if value is not None]
    if kind == pa.string() and max(map(len, there)) > MAX_TEXT:
        return None
    if kind == pa.int64() and not (min(there) >= -(2**63) and max(there) < 2**63):
        return None
    return pa.array(column, kind, from_pandas=kind == pa.float64())  # NaN is a missing value


_OF_KIND = {pa.string(): str, pa.int64(): int, pa.float64(): float, pa.bool_(): bool}
_TYPES = set(_OF_KIND.values())
_SQL_VALUES = ("true", "false", "null", "current_date", "current_time", "current_timestamp")


def refused_name(name: str) -> str | None:
    """The reason why metadata and labels may not have a column of this name; None where they may.

    Reserved are the table's own columns, `part_…` for the facts of an image's parts, and in any letter case `_row…`,
    which is Lance's prefix, and the words that a filter would read as values: `null < 5` holds for no row.
    """
    if name in SYSTEM_COLUMNS or name.startswith(PART_COLUMN) or name.lower().startswith("_row"):
        return "name is taken by the table"
    if name.lower() in _SQL_VALUES:
        return "SQL reads it as a value"
    return None if COLUMN_NAME.fullmatch(name) else "not a plain column name"


def _unfit_name(name: str, room: int) -> str | None:
    return refused_name(name) or (f"more than {MAX_COLUMNS} columns" if room <= 0 else None)


def _kind(value: Any) -> pa.DataType | None:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64()
    if isinstance(value, float):
        return pa.float64()
    return pa.string() if isinstance(value, str) else None


def _first_kind(column: Sequence[Any]) -> pa.DataType:
    """The first value's type, widened from integer to float where both occur."""
    kinds = {_kind(v) for v in column if v is not None}
    first = next(k for v in column if (k := _kind(v)) is not None)
    return pa.float64() if first == pa.int64() and pa.float64() in kinds else first


def _cast(value: Any, kind: pa.DataType, name: str, skipped: Counter[str]) -> Any:
    if value is None:
        return None
    own = _kind(value)
    if kind == pa.float64() and own == pa.int64() and abs(value) <= sys.float_info.max:
        return float(value)
    if kind == pa.int64() and own == pa.float64() and math.isfinite(value) and value == int(value):
        value, own = int(value), kind
    if own != kind or (kind == pa.int64() and not -(2**63) <= value < 2**63):
        skipped[f"{name}: not {kind}"] += 1
        return None
    if kind == pa.string() and len(value) > MAX_TEXT:
        skipped[f"{name}: longer than {MAX_TEXT} characters"] += 1
        return None
    return None if kind == pa.float64() and math.isnan(value) else value
