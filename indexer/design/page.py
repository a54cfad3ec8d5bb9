"""The design that all pages share: one style sheet, and a whole page with it inlined."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from html import escape
from importlib.resources import files

STYLE_SHEET = "style.css"  # of this package; a server may serve it as a file


@cache
def style() -> str:
    """The text of the style sheet. It names no other file and no address."""
    return files(__package__).joinpath(STYLE_SHEET).read_text(encoding="utf-8")


def whole_page(title: str, parts: Iterable[str]) -> str:
    """A self-contained HTML page: `title` is plain text, `parts` are HTML."""
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width, initial-scale=1'>"
        "<meta name='color-scheme' content='light dark'>"
        f"<title>{escape(title)}</title><style>{style()}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )
