"""The columns of a table that holds images: which is the image, and how the others become metadata."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from indexer.archive.tables.named import TableOptions
from indexer.errors import InputError
from indexer.jsonable import jsonable
from indexer.user_tables.column_types import plain_column

if TYPE_CHECKING:
    import pyarrow as pa

Form = Literal["bytes", "struct", "path"]
PATH_FIELD = "path"  # beside `bytes` in the struct of Hugging Face's `Image` feature


@dataclass(frozen=True)
class Columns:
    """How the rows of a table become samples."""

    image: str
    form: Form  # of the image column: bytes, a struct {bytes, path}, or the path of a file
    metadata: Mapping[str, str]  # column → field
    names: Mapping[str, Sequence[str]]  # column of class numbers → the classes' names, which the file states
    notes: tuple[str, ...]

    def fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The metadata of a row; without missing values."""
        found = {}
        for column, field in self.metadata.items():
            value = scalar(row[column])
            if value is None:
                continue
            found[field] = value
            names = self.names.get(column)
            if names and isinstance(value, int) and 0 <= value < len(names):
                found.setdefault(f"{field}_name", names[value])
        return found


def columns_of(path: str, schema: pa.Schema, options: TableOptions) -> Columns:
    """Raises InputError where no column, or more than one, can be the image."""
    twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
    if twice:
        raise InputError(f"{path} has the column {twice[0]} twice. Rename one.")
    image = options.image or _only_image(path, schema)
    form = _form(schema.field(image).type) if image in schema.names else None
    if form is None:
        cause = "holds neither images nor their paths" if image in schema.names else "is not in it"
        raise InputError(f"{path}: --image-column {image} {cause}; it has: {_listed(schema)}. Name another column.")
    if options.key and options.key not in schema.names:
        raise InputError(f"{path}: --key-column {options.key} is not in it; it has: {_listed(schema)}. Name another.")
    metadata, notes = _metadata(path, schema, image)
    return Columns(image, form, metadata, _class_names(schema), tuple(notes))


def image_columns(schema: pa.Schema) -> list[str]:
    """The columns that hold images: structs with bytes, else plain bytes."""
    forms = {field.name: _form(field.type) for field in schema}
    found = [name for name, form in forms.items() if form == "struct"]
    return found or [name for name, form in forms.items() if form == "bytes"]


def _only_image(path: str, schema: pa.Schema) -> str:
    found = image_columns(schema)
    if len(found) == 1:
        return found[0]
    if found:
        raise InputError(f"{path} has {len(found)} columns of images: {', '.join(found)}. Name one: --image-column.")
    raise InputError(
        f"{path}: a table whose columns hold no image: {_listed(schema)}. If one holds the paths of image files, name "
        "it: --image-column."
    )


def _form(kind: pa.DataType) -> Form | None:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return "bytes"
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "path"
    if pa.types.is_struct(kind):
        inner = {kind.field(i).name: _form(kind.field(i).type) for i in range(kind.num_fields)}
        return "struct" if inner.get("bytes") == "bytes" else None
    return None


def _metadata(path: str, schema: pa.Schema, image: str) -> tuple[dict[str, str], list[str]]:
    """The other columns of plain values → their fields, and notes on renamed columns and on those left out."""
    import pyarrow as pa

    others = [c for c in schema if c.name != image or _form(c.type) == "path"]
    left_out = [c.name for c in others if pa.types.is_nested(c.type) or _form(c.type) == "bytes" or not c.name]
    fields, notes = field_names(path, [c.name for c in others if c.name not in left_out])
    if left_out:
        notes.append(f"columns left out, not plain values: {', '.join(left_out)}")
    return fields, notes


def field_names(path: str, columns: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Column → field of the metadata, by `plain_column`, and notes on those renamed. Raises InputError."""
    fields: dict[str, str] = {}
    for column in columns:
        field = plain_column(column) or column
        if field in fields.values():
            raise InputError(f"{path}: two columns would be the field {field}. Rename one.")
        fields[column] = field
    return fields, [f"column {old!r} is stored as {new}" for old, new in fields.items() if old != new]


def _class_names(schema: pa.Schema) -> dict[str, Sequence[str]]:
    """The names of classes that `datasets` writes into the schema's metadata (its ClassLabel feature)."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        labels = {name: f.get("names") for name, f in features.items() if f.get("_type") == "ClassLabel"}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    return {
        name: names
        for name, names in labels.items()
        if isinstance(names, list) and all(isinstance(n, str) for n in names)
    }


def scalar(value: Any) -> Any:
    """A value that JSON can hold: dates as ISO text; NaN and infinity are missing."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value.isoformat() if hasattr(value, "isoformat") else jsonable(value)


def _listed(schema: pa.Schema) -> str:
    return ", ".join(schema.names) or "none"
