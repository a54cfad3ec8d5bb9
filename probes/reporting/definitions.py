"""Definitions of the terms of a page, quoted from protocols.md (D18), and links to them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from html import escape
from importlib.resources import files

from probes.reporting.page import section
from probes.reporting.words import NAMES

ENTRY = re.compile(r"^- `(\w+)`: (.+(?:\n  .+)*)", re.MULTILINE)
LINK = re.compile(r"href='#def-(\w+)'")


@cache
def definitions() -> dict[str, str]:
    """Key → one sentence, in the order of protocols.md."""
    text = files("probes").joinpath("protocols.md").read_text(encoding="utf-8")
    found = ENTRY.findall(text[text.index("## D18") :])
    return {key: " ".join(sentence.split()) for key, sentence in found}


def term(key: str, shown: str | None = None) -> str:
    """A term as HTML, linked to its definition on the same page; `shown` (plain text) in place of its name."""
    return f"<a class='term' href='#def-{key}'>{escape(NAMES[key] if shown is None else shown)}</a>"


def definitions_of(parts: Iterable[str]) -> str:
    """The section that defines every term to which these parts of a page link."""
    used = set(LINK.findall("".join(parts)))
    lines = (
        f"<dt id='def-{key}'>{escape(NAMES[key])}</dt><dd>{escape(sentence)}</dd>"
        for key, sentence in definitions().items()
        if key in used
    )
    sources = "Quoted from the protocols (probes/protocols.md), whose D sections give the formulas and sources."
    return section("definitions", "Definitions", f"<p class='dim'>{sources}</p><dl class='terms'>{''.join(lines)}</dl>")
