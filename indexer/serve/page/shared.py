"""What every page has: the table, the other tables, and the links to the other pages."""

from __future__ import annotations

from typing import Any

from indexer.serve.tables import Tables

PAGES = (
    ("", "Search"),
    ("/map", "Map"),
    ("/duplicates", "Duplicates"),
    ("/probes", "Probes"),
    ("/compare", "Compare"),
    ("/failures", "Failures"),
    ("/runs", "Runs"),
    ("/health", "Health"),
)
LABEL = ("/label", "Label")  # where labels may be written


def shared(tables: Tables, table: str, here: str) -> dict[str, Any]:
    """The values that base.html needs."""
    shown = (*PAGES, LABEL) if tables.writable else PAGES
    return {"table": tables.get(table).store.name, "names": tables.names(), "pages": shown, "here": here}
