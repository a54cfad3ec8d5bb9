"""D31 on a page: images to look at, with their fitted neighbours; as pictures where the page can load them."""

from __future__ import annotations

import math
from collections.abc import Callable
from html import escape

from probes.reporting.definitions import term
from probes.reporting.page import html_table, section
from probes.reporting.words import number, quantity
from probes.runs.review.record import Example, Examples, Neighbour

Pictures = Callable[[str], str]  # key → address of its picture
SHOWN = 12
TITLES = {
    "error": "Errors, the most certain first, each with its nearest fitted images",
    "suspect": "Labels that may be wrong",
    "doubtful": "Most doubtful",
    "prototype": "Prototypes of each class",
    "outlier": "Outliers of each class",
}
TARGET_TITLES = {  # of targets that are no classes
    "numeric": {
        "error": "The most wrong, each with its nearest fitted images and their numbers",
        "suspect": "Numbers that may be wrong",
        "doubtful": "Most doubtful: the largest predicted error",
        "prototype": "Prototypes of each fifth of the numbers",
        "outlier": "Outliers of each fifth of the numbers",
    },
    "survival": {
        "error": "The most wrong, early events of low risk and the reverse, each with its nearest fitted images",
        "suspect": "Times or events that may be wrong",
        "prototype": "Prototypes of each third of the risk",
        "outlier": "Outliers of each third of the risk",
    },
}
TARGET_TERMS = {"suspect": "suspect_number", "doubtful": "doubtful_number"}
OF_CLASSES = ("prototype", "outlier")  # five of each class: all are shown
TERMS = ("suspect", "doubtful", "prototype", "outlier")  # kinds with a definition


def gallery(found: Examples | None, pictures: Pictures | None = None, target: str = "classes") -> str:
    """The first of every kind; all that are listed are in examples.csv."""
    if found is None:
        return ""
    classes = target == "classes"
    counted = (
        f"{found.errors} errors among the test rows; {found.suspects} suspect labels among {found.scored} rows with "
        "out-of-sample probabilities."
        if classes
        else f"{found.suspects} errors are far out among those of {found.scored} rows by probes that were not "
        "fitted on their groups: the label may be wrong."
    )
    parts = [
        f"<p>{counted} examples.csv lists them for a person to look at."
        + ("" if pictures else " With pictures: this report on the page of <code>indexer serve</code>.")
        + "</p>"
    ]
    for kind, title in (TITLES if classes else TARGET_TITLES[target]).items():
        own = [e for e in found.shown if e.kind == kind]
        if not own:
            continue
        linked = f" ({term(kind if classes else TARGET_TERMS.get(kind, kind))})" if kind in TERMS else ""
        parts.append(f"<h3>{escape(title)}{linked}</h3>")
        if kind == "error" and pictures is not None and classes:
            parts.append("<p class='dim'>Neighbours with the label of the image are green, others red.</p>")
        if pictures is None:
            parts.append(html_table(_lines(own if kind in OF_CLASSES else own[:SHOWN]), "words"))
        elif kind == "error":
            parts += [_with_neighbours(e, pictures) for e in own[:SHOWN]]
        else:
            shown = own if kind in OF_CLASSES else own[:SHOWN]
            drawn = "".join(_one(e, pictures) for e in shown)
            parts.append(f"<div class='hits small'>{drawn}</div>")
    return section("examples", "Images to look at", *parts)


def _lines(shown: list[Example]) -> list[list[str]]:
    """Keys in place of pictures."""
    scored, near = bool(shown[0].called), any(e.neighbours for e in shown)
    classes = not math.isnan(shown[0].p_called)
    head = [
        "key",
        "label",
        *(["called", "p"] if classes else ["predicted", _residual(shown[0])] if scored else ["cosine"]),
    ]
    rows = [[*head, *(["nearest fitted images, with their labels"] if near else [])]]
    for e in shown:
        own = [escape(e.called), number(e.p_called) if classes else quantity(e.score)] if scored else [number(e.score)]
        fitted = ", ".join(f"{escape(n.key)} <span class='ci'>({escape(n.label)})</span>" for n in e.neighbours)
        rows.append([escape(e.key), escape(e.label), *own, *([fitted] if near else [])])
    return rows


def _with_neighbours(example: Example, pictures: Pictures) -> str:
    near = "".join(
        _picture(n.key, [n.label, f"cosine {number(n.cosine)}"], pictures, same=_alike(n, example))
        for n in example.neighbours
    )
    return f"<div class='row small'>{_one(example, pictures, query=True)}<div class='hits'>{near}</div></div>"


def _alike(neighbour: Neighbour, example: Example) -> bool | None:
    """Whether both have the same class; None of numbers, which are never quite alike."""
    return None if math.isnan(example.p_called) else neighbour.label == example.label


def _residual(example: Example) -> str:
    """What an image of a number or a time is ranked by."""
    return "predicted error" if example.kind == "doubtful" else "residual"


def _one(example: Example, pictures: Pictures, *, query: bool = False) -> str:
    words = [f"label {example.label}"]
    if example.called and math.isnan(example.p_called):
        words += [f"predicted {example.called}", f"{_residual(example)} {quantity(example.score)}"]
    elif example.called:
        words.append(f"called {example.called}, p {number(example.p_called)}")
    else:
        words.append(f"cosine {number(example.score)}")
    return _picture(example.key, words, pictures, query=query)


def _picture(key: str, words: list[str], pictures: Pictures, *, query: bool = False, same: bool | None = None) -> str:
    seen = f"<img src='{escape(pictures(key), quote=True)}' alt='{escape(key, quote=True)}' loading='lazy'>"
    kind = "" if same is None else " class='good'" if same else " class='bad'"
    lines = "".join(f"<div{kind if i == 0 else ''}>{escape(word)}</div>" for i, word in enumerate(words))
    named = f"<div class='label'>{escape(key)}</div>"
    return f"<figure class='picture{' query' if query else ''}'>{seen}<figcaption>{lines}{named}</figcaption></figure>"
