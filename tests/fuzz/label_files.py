"""CSV files of labels as spreadsheets and scripts write them, whole and damaged, and what Python's csv finds there."""

from __future__ import annotations

import codecs
import csv
import io
import random
import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from indexer.errors import IndexerError, InputError
from indexer.store.labelling.file import Choice, read_labels
from indexer.store.labelling.join import join_labels
from tests.fuzz.verdict import Wrong
from tests.mutations import mutated

KEYS = ("a.png", "b.png", "d/a.jpg", "d/Ünï.png", "x/Ünï.png", "007", "7", "1.2.840.1", "c", "C.PNG", "e f", "NA")
MISSING = {"", "NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "None", "<NA>", "#N/A"}
WHOLE = ("0", "1", "-7", "42", "999999999999999", "9007199254740993", "1234567890123456789", "12345678901234567890")
REAL = ("1.5", "-0.25", "1e3", "1E10", ".5", "5.", "+2", "1e400", "inf", "0.1", "1_000", "0x10", "1,5")
NAMES = (
    "007",
    "00",
    "-01.5",
    "abc",
    "a b",
    "é",
    "e\u0301",
    "true",
    "False",
    "TRUE",
    "yes",
    "2024-01-01",
    "a\nb",
    '"',
    "a;b",
)
COLUMNS = ("grade", "Patient ID", "größe", "A", "label", "when?")
ENCODINGS = ("utf-8",) * 6 + ("utf-8-sig", "utf-8-sig", "utf-16", "utf-16-le", "cp1252")
NAMED_LEADING_ZERO = re.compile(r"[+-]?0[0-9].*", re.DOTALL)


def label_files(count: int, seed: int) -> Iterator[bytes]:
    """Two thirds of them whole, the others with damaged bytes."""
    for number in range(count):
        rng = random.Random(f"labels-{seed}-{number}")
        data = _file(rng)
        if rng.random() > 0.7 and data:
            _, data = next(iter(mutated([data], 1, rng.randrange(2**32))))
        yield data


def _file(rng: random.Random) -> bytes:
    names = rng.sample(COLUMNS, k=rng.choice((1, 1, 2, 3)))
    kinds = [rng.choice((WHOLE[:5], WHOLE, REAL, (*WHOLE[:4], *REAL[:3]), NAMES, ("true", "false"), ("1", *NAMES)))
             for _ in names]  # fmt: skip
    rows = []
    for key in (
        rng.choices(KEYS, k=rng.choice((0, 1, 4, 12))) if rng.random() < 0.3 else rng.sample(KEYS, k=rng.randrange(12))
    ):
        cells = [rng.choice(kind) if rng.random() < 0.85 else rng.choice(sorted(MISSING)) for kind in kinds]
        rows.append([_spelt(key, rng), *(f" {cell} " if rng.random() < 0.05 else cell for cell in cells)])
    if rows and rng.random() < 0.05:
        rows[rng.randrange(len(rows))] += ["one too many"] if rng.random() < 0.5 else []
    text = io.StringIO()
    delimiter = rng.choice(",,,;\t|")
    quoting = rng.choice((csv.QUOTE_MINIMAL, csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=rng.choice(("\n", "\r\n")))
    writer.writerow(["key", *names] if rng.random() < 0.97 else ["name", *names])
    writer.writerows(rows)
    written = text.getvalue()
    if rng.random() < 0.1:
        written = written.rstrip("\r\n")
    if rng.random() < 0.1:
        written += "\n\n"
    return written.encode(rng.choice(ENCODINGS), "replace")


def _spelt(key: str, rng: random.Random) -> str:
    """The key as it is, or as another system writes it."""
    return rng.choice((
        str, str, str, str.upper, lambda k: unicodedata.normalize("NFD", k), lambda k: k.rpartition("/")[2],
        lambda k: k.removesuffix(".png"), lambda k: f"{k}.dcm",
    ))(key)  # fmt: skip


def label_attack(folder: Path) -> Callable[[list[bytes]], list[str]]:
    path = folder / "labels.csv"
    joined = _Joined(folder / "joined")

    def compared(data: bytes) -> str:
        path.write_bytes(data)
        try:
            table = read_labels(path, Choice("key"), {}).table
        except InputError:
            return "refused"
        rows = _by_csv(data)
        if rows is None:
            return "not read by the other"
        _check(table, rows)
        if zlib.crc32(data) % 10 == 0:
            return joined.check(table)
        return "equal"

    return lambda batch: [compared(data) for data in batch]


def _by_csv(data: bytes) -> list[dict[str, str]] | None:
    """The rows by Python's csv: the encoding is that of the byte order mark or UTF-8, blank lines are none."""
    marks = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
    encoding = next((name for mark, name in marks if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
        for delimiter in ",;\t|":
            lines = [
                line for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True) if line
            ]
            header = [name.strip() for name in lines[0]] if lines else []
            if "key" in header and len(header) > 1:
                if any(len(line) != len(header) for line in lines):
                    return None
                return [dict(zip(header, line, strict=True)) for line in lines[1:]]
    except (UnicodeError, csv.Error):
        return None
    return None


def _check(table: pa.Table, rows: list[dict[str, str]]) -> None:
    """Every cell is the text, trimmed, or the same number; missing words are missing, and so is a blank key."""
    if table.num_rows != len(rows):
        raise Wrong(f"{table.num_rows} rows, csv reads {len(rows)}")
    names = [name for name in (rows[0] if rows else {}) if name != "key"]
    for stored in table.column_names:
        matching = ["key"] if stored == "key" else [name for name in names if _plain(name) == _plain(stored)]
        if len(matching) != 1:
            continue  # renamed so that the names are no longer alike
        texts = [row[matching[0]].strip() for row in rows]
        for text, value in zip(texts, table.column(stored).to_pylist(), strict=True):
            if stored == "key" and value != (text or None):
                raise Wrong(f"key {text!r} became {value!r}")
            if stored != "key" and not _same(text, value):
                raise Wrong(f"{stored}: {text!r} became {value!r}")
        numbers = not pa.types.is_string(table.schema.field(stored).type)
        if numbers and stored != "key" and any(NAMED_LEADING_ZERO.fullmatch(text) for text in texts):
            raise Wrong(f"{stored}: names with leading zeros became numbers")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", unicodedata.normalize("NFKD", name).lower())


def _same(text: str, value: Any) -> bool:
    if text in MISSING:
        return value is None
    if value is None:
        return False
    if isinstance(value, str):
        return value == text
    if isinstance(value, bool):
        return text.lower() == str(value).lower()
    if isinstance(value, int):
        return Decimal(text) == value
    whole = re.fullmatch(r"[+-]?\d+", text)
    return float(text) == value and (not whole or Decimal(text) == Decimal(value))


class _Joined:
    """A table to which labels are joined one file after another, and what each row should hold."""

    def __init__(self, folder: Path) -> None:
        from tests.tables import add_shard, make_table, unit_rows

        self._store = make_table(folder, unit_rows(0, 4))
        add_shard(self._store, "first", list(KEYS), unit_rows(len(KEYS), 4))

    def check(self, table: pa.Table) -> str:
        labels = table.select([0, 1]).rename_columns(["key", "v"])
        labels = labels.set_column(1, "v", labels.column(1).cast(pa.string()))
        before = self._values()
        try:
            join_labels(self._store, labels)
        except IndexerError as error:
            if self._values() != before:
                raise Wrong(f"refused, and rows have changed: {error}") from error
            return "join refused"
        after = self._values()
        lines = list(zip(labels.column(0).to_pylist(), labels.column(1).to_pylist(), strict=True))
        for key in KEYS:
            equal = [value for name, value in lines if name == key]
            alike = [value for name, value in lines if name and _alike(name, key)]
            allowed = equal[:1] if equal else [before.get(key), *alike]
            if after.get(key) not in allowed:
                raise Wrong(f"row {key!r} has {after.get(key)!r}, not one of {allowed!r}")
        return "joined"

    def _values(self) -> dict[str, Any]:
        self._store.refresh()
        columns = ["key", "v"] if "v" in self._store.columns() else ["key"]
        return {row["key"]: row.get("v") for batch in self._store.scan(columns) for row in batch.to_pylist()}


def _alike(name: str, key: str) -> bool:
    """Whether a name may be meant for a key: without folder, suffix, letter case and Unicode form."""

    def bare(path: str) -> str:
        last = unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold()).rpartition("/")[2]
        return re.sub(r"\.(png|jpg|dcm)$", "", last)

    return bare(name) == bare(key)
