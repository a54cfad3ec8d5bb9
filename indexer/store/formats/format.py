"""The format number of the tables, and the facts in each table's schema metadata. Imports the standard library only.

Format 1 (package 0.1) has no identity, and `frame` (int32) where format 2 has `part` (string); its side tables (ledger,
failures, text) carry no metadata at all. `migrate` brings a database of format 1 to format 2 in place.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from indexer.errors import NewerFormat, StoreError

FORMAT = 2  # of the main table and of its side tables
PACKAGE = "embedding-indexer"
METADATA_KEY = b"embedding-indexer"  # in the schema metadata of every table of this package


@dataclass(frozen=True)
class TableFacts:
    """The facts in a table's schema metadata."""

    format: int
    identity: str  # random 128-bit hex id, made with the table; "" in format 1
    package: str  # version of this package that gave the table its format; "" in format 1
    encoder: Mapping[str, Any] | None = None  # EncoderSpec as JSON; of the main table only
    fingerprint: str = ""  # EncoderSpec.fingerprint, for other programs; of the main table only
    keys: Mapping[str, Any] | None = None  # KeyRule as JSON; of the main table only; None: the default rule
    tiles: Mapping[str, Any] | None = None  # TileRule as JSON; of the main table only; None: of whole images
    migrated_at: int = 0  # the version at which it was migrated from format 1; 0: made in format 2; of the main table

    def to_metadata(self) -> dict[str, str]:
        """As schema metadata of a table."""
        facts = {name: value for name, value in asdict(self).items() if value or name == "identity"}
        return {METADATA_KEY.decode(): json.dumps(facts, sort_keys=True)}


UNMARKED = TableFacts(1, "", "")  # a side table of format 1


def new_facts(identity: str) -> TableFacts:
    """The facts of a new side table."""
    return TableFacts(FORMAT, identity, package_version())


def new_identity() -> str:
    """128 random bits as 32 hex digits."""
    return secrets.token_hex(16)


def package_version() -> str:
    """The installed version of this package; "unknown" where it is not installed."""
    import importlib.metadata

    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def version_words() -> str:
    """The line that `--version` prints."""
    return f"{PACKAGE} {package_version()}, table format {FORMAT}"


def facts_of(metadata: Mapping[bytes, bytes] | None, table: str) -> TableFacts | None:
    """The facts in a table's schema metadata; None for a table of another program.

    Raises NewerFormat for a format above FORMAT, and StoreError where the metadata is damaged.
    """
    raw = (metadata or {}).get(METADATA_KEY)
    if raw is None:
        return None
    try:
        parsed = json.loads(raw)
        texts = {name: str(parsed.get(name, "")) for name in ("identity", "package", "fingerprint")}
        at = int(parsed.get("migrated_at", 0))
        own = {name: parsed.get(name) for name in ("encoder", "keys", "tiles")}
        named: dict[str, Any] = {**texts, **own}
        facts = TableFacts(int(parsed["format"]), migrated_at=at, **named)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StoreError(f"the metadata of table {table} is damaged. Restore the table from a backup.") from error
    if facts.format > FORMAT:
        way_out = f"Install {PACKAGE} {facts.package} or newer" if facts.package else f"Upgrade {PACKAGE}"
        raise NewerFormat(
            f"table {table} has format {facts.format}, this version ({package_version()}) knows formats up to "
            f"{FORMAT}. {way_out}: pip install --upgrade {PACKAGE}."
        )
    return facts
