"""The names and identities of slides in a table's ledger, from which a slide is found again as it was indexed.

The name is `/a/b/s1.svs#slide=b%2Fs1.svs`: the file, and the path below the folder that was named, which begins its
keys. The identity is the file's, and behind a `?` what else its tiles and their columns depend on.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from indexer.addresses import identity

KIND = "slides"
MARK = "#slide="
# Of the slide formats that OpenSlide 4 reads, those that are nothing else; TIFF and DICOM are images too
FORMATS = (".svs", ".ndpi", ".scn", ".mrxs", ".svslide", ".bif", ".vms", ".vmu", ".czi")
NOT_CUT = "whole slide, which is read with --tile 256 --mpp 0.5"


@dataclass(frozen=True)
class SlideSource:
    """What the user gave for one slide, beside the slide."""

    key: str  # its path below the folder that was named
    mpp: float | None = None  # of --mpp-of: micrometres a pixel of level 0
    coords: str = ""  # the file of --coords, relative to the slide's folder
    csv: str = ""  # slides.csv, relative to the slide's folder


def slide_name(path: str, key: str) -> str:
    return f"{path}{MARK}{quote(key, safe='')}"


def is_slide(name: str) -> bool:
    """Whether a shard of this name is a slide."""
    return MARK in name


def key_in(name: str) -> str:
    """The slide's own key; "" for a shard that is no slide."""
    return unquote(name.rpartition(MARK)[2]) if is_slide(name) else ""


def stem(key: str) -> str:
    """The key without its suffix, in the column `slide`."""
    return key.rpartition(".")[0] or key


def slide_identity(
    path: str, source: SlideSource, row: Mapping[str, Any], others: tuple[str, ...] = (), *, hash_content: bool
) -> str:
    """Changes when the slide, `others` (further files of it), or what was given for it may have changed.

    Raises OSError.
    """
    own = identity(path, path, hash_content=hash_content) or ""
    if others:
        facts = hashlib.sha256()
        for other in others:
            facts.update(f"{Path(other).name}\0{identity(other, other, hash_content=hash_content)}\0".encode())
        own += f"-{facts.hexdigest()[:32]}"
    given: dict[str, Any] = {}
    if source.mpp is not None:
        given["mpp"] = repr(source.mpp)
    if source.coords:
        file = str(Path(path).parent / source.coords)
        given |= {"coords": source.coords, "of": identity(file, file, hash_content=hash_content)}
    if row:
        text = json.dumps(row, sort_keys=True, ensure_ascii=False)
        given |= {"csv": source.csv, "row": hashlib.sha256(text.encode()).hexdigest()[:32]}
    return own + (f"?{urlencode(given)}" if given else "")


def source_in(name: str, identity: str) -> SlideSource:
    """What was given for a slide, from its name and identity."""
    given = dict(parse_qsl(identity.partition("?")[2]))
    try:
        mpp = float(given["mpp"]) if "mpp" in given else None
    except ValueError:  # of a table that somebody made by hand
        mpp = None
    return SlideSource(key_in(name), mpp, given.get("coords", ""), given.get("csv", ""))


def beside(path: str, relative: str) -> str:
    """A file beside a slide, links resolved."""
    return str((Path(path).parent / relative).resolve())


def relative_to(path: str, file: Path) -> str:
    """The inverse of `beside`, so that both may move together."""
    return os.path.relpath(file.resolve(), Path(path).parent)
