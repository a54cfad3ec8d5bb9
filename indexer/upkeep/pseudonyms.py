"""Finds the hashes under which `pack` stored an identifier, so that a label file or a new image can name its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from indexer.errors import InputError
from indexer.pack.headers.dicom_fields import PatientIds, dicom_fields, read_header
from indexer.pack.headers.secret import KeyedHash, default_secret, load_secret
from indexer.store.table import EmbeddingStore

HASHED_UIDS = {"study": "study", "series": "series", "instance": "instance", "key": "instance"}  # column → kind of hash


@dataclass(frozen=True)
class Pseudonyms:
    """The hashes of one secret. `sites` are the issuers of patient ids, as headers or `pack --site` gave them, and
    `pattern` is that of `pack --patient-pattern`.
    """

    keyed: KeyedHash
    secret: Path
    sites: tuple[str, ...] = ("",)
    pattern: str = ""

    @classmethod
    def load(cls, secret: Path | None, sites: Sequence[str], pattern: str, *, database: str) -> Pseudonyms:
        """With the secret in this file, by default the one that `pack` uses by default. Raises InputError."""
        path = secret or default_secret()
        keyed, _ = load_secret(path, outside=Path(database), make=False)
        return cls(keyed, path, ("", *sites), pattern)

    def of(self, column: str, identifier: str) -> tuple[str, ...]:
        """The values that `pack` may have stored for an identifier in this column: from a DICOM header, or from a
        user's table (`pack --csv --hash`).
        """
        written = " ".join(identifier.split())
        if column == "patient":
            part = PatientIds(pattern=self.pattern).part(written) or written
            return (*(self.keyed("patient", f"{site}\\{part}") for site in self.sites), self.keyed(column, written))
        of_table = self.keyed(f"column {column}", written)
        return (self.keyed(HASHED_UIDS[column], written), of_table) if column in HASHED_UIDS else (of_table,)

    def of_image(self, name: str, data: bytes, column: str) -> tuple[str, ...]:
        """The same for an image of a DICOM file, from its header. Raises InputError where it holds no such field."""
        header = read_header(BytesIO(data))
        found: dict[str, None] = {}
        if header is not None:
            patient = " ".join(str(header.get("PatientID") or "").split())
            for site in self.sites:
                if value := dicom_fields(header, self.keyed, PatientIds(site, self.pattern)).get(column):
                    found[str(value)] = None
            if patient and column == "patient":
                found |= dict.fromkeys(self.of(column, patient))
        if not found or column not in ("patient", *HASHED_UIDS):
            raise InputError(
                f"--exclude-same {column}: {name} holds no {column} in a DICOM header. Say what to leave out with "
                "--where."
            )
        return tuple(found)


def hashed_names(store: EmbeddingStore, labels: pa.Table, *, on: str, pseudonyms: Pseudonyms) -> pa.Table:
    """The labels with the identifiers in column `on` replaced by the hashes that name the table's rows.

    Raises InputError where the table holds none of them.
    """
    names = [str(value) if value is not None else None for value in labels.column(on).to_pylist()]
    forms = [pseudonyms.of(on, name) if name is not None else () for name in names]
    stored = _stored(store, on, [form for each in forms for form in each])
    if not stored:
        raise InputError(
            f"no {on} of the labels is in table {store.name} under the secret {pseudonyms.secret}. Name the secret "
            "with which it was packed (--secret), and the issuer or --site of the patient ids (--site) and their "
            "--patient-pattern, if there were any."
        )
    chosen = [next((f for f in each if f in stored), each[0]) if each else None for each in forms]
    return labels.set_column(labels.column_names.index(on), on, pa.array(chosen, pa.string()))


def value_of_content(store: EmbeddingStore, column: str, content: str) -> str | None:
    """The value of a row whose image has this sha256; None where there is no such row."""
    batches = store.scan([column], f"content = '{content}'")
    return next((value for batch in batches for value in batch.column(column).to_pylist()), None)


def known_value(store: EmbeddingStore, column: str, forms: Sequence[str]) -> tuple[str, bool]:
    """The first of these hashes that the table holds, else the first; and whether it holds one."""
    stored = _stored(store, column, forms)
    return next((form for form in forms if form in stored), forms[0]), bool(stored)


def _stored(store: EmbeddingStore, column: str, forms: Iterable[str]) -> set[str]:
    """Those of the values that the table holds."""
    kind = pa.string() if column == "key" else store.columns().get(column)
    if kind != pa.string():
        raise InputError(
            f"column {column} of table {store.name} is {'missing' if kind is None else kind}, and hashes are text: it "
            "was not packed with hashed identifiers."
        )
    wanted = pa.array(list(dict.fromkeys(forms)), pa.string())
    found: set[str] = set()
    for batch in store.scan([column]):
        values = batch.column(column)
        found.update(pc.unique(values.filter(pc.is_in(values, value_set=wanted))).to_pylist())
    return found
