"""Expands an address in an object store: an object, a prefix, or a pattern of objects."""

from __future__ import annotations

import re
from collections.abc import Iterator

from indexer.errors import ShardNotFound
from indexer.redact import stored_address
from indexer.remote import objects
from indexer.remote.stream import Facts

MAGIC = re.compile(r"[*?[]")


def expanded(address: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, Facts | None]]:
    """Addresses of objects, with what the store says of them where it was asked, and of prefixes, which end with "/".

    In a pattern "*" and "?" stand for no "/", and "**" for anything. `suffixes` are those of archives: an address with
    one is an object; of any other the store is asked. Raises ShardNotFound.
    """
    name = stored_address(address)
    try:
        if MAGIC.search(address.partition("://")[2]):
            matches = list(_matches(address))
            if not matches:
                raise ShardNotFound(f"nothing matches {name}. Name an object, a prefix, or a pattern in quotes.")
            yield from matches
        elif address.endswith("/") or address.lower().endswith(suffixes) or not objects.is_prefix(address):
            yield address, None
        else:
            yield f"{address}/", None
    except OSError as error:
        raise ShardNotFound(f"{name} cannot be listed: {error}. Check the address and its credentials.") from error


def _matches(pattern: str) -> Iterator[tuple[str, Facts]]:
    found = MAGIC.search(pattern, len(pattern.partition("://")[0]) + 3)
    assert found is not None
    prefix = pattern[: pattern.rfind("/", 0, found.start()) + 1]
    expression = re.compile(_translated(pattern[len(prefix) :]))
    for listed in objects.listed(prefix):
        if expression.fullmatch(listed.path):
            yield prefix + listed.path, listed.facts


def _translated(pattern: str) -> str:
    """A pattern of paths as a regular expression."""
    pieces = re.split(r"(\*\*/|\*\*|\*|\?|\[!?[^\]/]+\])", pattern)
    known = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    return "".join(
        known.get(piece) or (piece.replace("[!", "[^") if piece[:1] == "[" and len(piece) > 1 else re.escape(piece))
        for piece in pieces
    )
