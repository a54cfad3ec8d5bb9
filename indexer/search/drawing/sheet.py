"""Draws search results with their pictures as a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from indexer.search.drawing.pictures import SIDE
from indexer.search.results import SearchResult, Thumbnail
from indexer.types import Hit

INSET = SIDE // 3  # pixels of the picture of a tile's slide
MARGIN, LINE, TEXT = 10, 17, 13  # pixels: gap, line height, font size
BLUE, GREY = "#0066cc", "#666666"
FONT = "mpl-data/fonts/ttf/DejaVuSans.ttf"  # of matplotlib: Latin, Greek, Cyrillic, Arabic and Hebrew letters


@dataclass(frozen=True)
class _Cell:
    drawn: Thumbnail
    lines: list[str]  # below the picture
    query: bool = False


def contact_sheet(result: SearchResult) -> Image.Image:
    """How the hits were found, then one row for each query: it, outlined, and its hits.

    Below each picture stand its key and requested columns, below a hit also rank and cosine.
    """
    font = sheet_font()
    rows = _rows(result, font)
    width = max((len(row) for row in rows), default=1) * (SIDE + MARGIN) + 3 * MARGIN
    head = [line for text in (result.how, *result.limits()) for line in wrapped(text, font, width - 2 * MARGIN)]
    heights = [SIDE + (1 + max(len(cell.lines) for cell in row)) * LINE for row in rows]
    top = MARGIN + (len(head) + 1) * LINE
    sheet = Image.new("RGB", (width, top + sum(heights) + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for i, line in enumerate(head):
        draw.text((MARGIN, MARGIN + i * LINE), line, GREY, font)
    for row, height in zip(rows, heights, strict=True):
        for c, cell in enumerate(row):
            _draw(sheet, draw, cell, (MARGIN + c * (SIDE + MARGIN) + (MARGIN if c else 0), top), font)
        top += height
    return sheet


def _rows(result: SearchResult, font: Any) -> list[list[_Cell]]:
    pictures = result.drawn()
    rows = []
    for answer, drawn in zip(result.queries, pictures.queries, strict=True):
        asked = _Cell(drawn, ["query", fitted(answer.query, font, SIDE), *_facts(answer.columns, font)], query=True)
        rows.append([asked, *(_Cell(pictures.hits[h.row_id], _hit_lines(h, result, font)) for h in answer.hits)])
    return rows


def _hit_lines(hit: Hit, result: SearchResult, font: Any) -> list[str]:
    column = result.options.by or result.options.one_per
    more = [fitted(f"{hit.more:,} more of this {column}", font, SIDE)] if hit.more else []
    return [f"{hit.rank}   cosine {hit.score:.4f}", fitted(hit.key, font, SIDE), *_facts(hit.columns, font), *more]


def _facts(columns: dict[str, Any], font: Any) -> list[str]:
    """A line for each column that has a value, its name and the end of its value."""
    lines = []
    for name, value in columns.items():
        if value is not None:
            label = fitted(name, font, SIDE // 2)
            lines.append(f"{label} {fitted(str(value), font, SIDE - round(font.getlength(label + ' ')))}")
    return lines


def _draw(sheet: Image.Image, draw: ImageDraw.ImageDraw, cell: _Cell, at: tuple[int, int], font: Any) -> None:
    x, y = at
    if cell.drawn.pixels is not None:
        sheet.paste(Image.fromarray(cell.drawn.pixels), at)
        if cell.drawn.around is not None:  # the whole slide, in the corner of its tile
            small = Image.fromarray(cell.drawn.around).resize((INSET, INSET), Image.Resampling.BOX)
            corner = x + SIDE - INSET, y + SIDE - INSET
            draw.rectangle((corner[0] - 2, corner[1] - 2, x + SIDE - 1, y + SIDE - 1), "white")
            sheet.paste(small, corner)
    else:
        draw.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), outline=GREY)
        for i, line in enumerate(wrapped(cell.drawn.missing, font, SIDE - 2 * MARGIN)[: SIDE // LINE - 1]):
            draw.text((x + MARGIN, y + MARGIN + i * LINE), line, GREY, font)
    if cell.query:
        draw.rectangle((x - 3, y - 3, x + SIDE + 2, y + SIDE + 2), outline=BLUE, width=3)
    for i, line in enumerate(cell.lines):
        draw.text((x, y + SIDE + 5 + i * LINE), line, GREY if i else "black", font)


@cache
def sheet_font() -> Any:
    """The font of a contact sheet."""
    return ImageFont.truetype(str(files("matplotlib").joinpath(FONT)), TEXT)


@cache
def _letters() -> frozenset[int]:
    """Code points that the font can draw."""
    from matplotlib.ft2font import FT2Font

    return frozenset(FT2Font(str(files("matplotlib").joinpath(FONT))).get_charmap())


def drawable(text: str) -> str:
    """The text with control characters as "?", and letters that the font lacks by their code points."""
    drawn = (c if ord(c) in _letters() else c.encode("ascii", "backslashreplace").decode() for c in text)
    return "".join(c if c.isprintable() else "?" for c in drawn)


def fitted(text: str, font: Any, width: int) -> str:
    """The text, cut at its start to fit into `width` pixels: the end of a path or key is the more specific part."""
    plain = drawable(text)
    if font.getlength(plain) <= width:
        return plain
    while plain and font.getlength("…" + plain) > width:
        plain = plain[1:]
    return "…" + plain


def wrapped(text: str, font: Any, width: int) -> list[str]:
    """The text in lines of at most `width` pixels, broken at spaces; a longer word is cut at its start."""
    lines: list[str] = []
    for word in drawable(text).split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(fitted(word, font, width))
    return lines
