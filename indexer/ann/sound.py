"""Compares a loaded FAISS index with its manifest: a hash only proves that the file is the one the manifest names."""

from __future__ import annotations

from typing import Any

import faiss

from indexer.ann.engines.faiss_kinds import lists_of
from indexer.ann.engines.kinds import ENGINES
from indexer.ann.engines.rabitq import RabitqIndex
from indexer.ann.manifest import Manifest

METRIC = faiss.METRIC_INNER_PRODUCT
LISTS = ("", "ArrayInvertedLists", "BlockInvertedLists")  # in the file itself: no others, which name further files


def unsound(index: Any, manifest: Manifest) -> str:
    """Why a loaded index is none of the manifest's kind, dimension and number of rows; "" where it is one.

    A file of another kind would read its searches' parameters as others, follow paths to other files (FAISS's lists on
    disk), or answer with numbers from outside its arrays. An engine of another library checks its own file as it
    loads it.
    """
    if isinstance(index, RabitqIndex):  # its engine checked the parts against one another
        facts = f"{len(index):,} entries of {index.dim} numbers in {index.nlist} lists"
        wanted = f"{manifest.rows:,} entries of {manifest.dim} numbers in {manifest.nlist} lists"
        return "" if facts == wanted else f"it has {facts}, not {wanted}"
    if not isinstance(index, faiss.Index):
        return ""
    empty = faiss.index_factory(manifest.dim, ENGINES[manifest.kind].factory(lists_of(index)), METRIC)
    expected, found = _shape(empty), _shape(index)  # `empty` owns what `_shape` looks at
    if found != expected:
        return f"it is {found}, not {expected}"
    lists = _lists(index)
    if lists not in LISTS:
        return f"its lists are {lists}"
    entries = manifest.rows + manifest.stale
    if index.ntotal != entries or not index.is_trained:
        return f"it has {index.ntotal:,} entries, not {entries:,}"
    return ""


def _lists(index: Any) -> str:
    """The type of the inverted lists of a loaded index, "" where it has none."""
    found = faiss.downcast_index(index)
    if not isinstance(found, faiss.IndexIVF):
        return ""
    if found.invlists is None or found.invlists.nlist != found.nlist:
        return "missing"
    return type(faiss.downcast_InvertedLists(found.invlists)).__name__


def _shape(index: Any) -> str:
    """The types of an index and of its parts, with what bounds the memory that a search reads."""
    whole = faiss.downcast_index(index)
    name = "IndexFlat" if isinstance(whole, faiss.IndexFlat) else type(whole).__name__  # FAISS names its metric or not
    words = [name, f"d={whole.d}", f"metric={whole.metric_type}"]
    if isinstance(whole, faiss.IndexIVF):
        words += [f"code={whole.code_size}", f"lists={whole.nlist}", _shape(whole.quantizer)]
    if isinstance(whole, (faiss.IndexScalarQuantizer, faiss.IndexIVFScalarQuantizer)):
        words.append(f"bits={whole.sq.qtype}/{whole.sq.d}")
    if isinstance(whole, faiss.IndexHNSW):
        words.append(_shape(whole.storage))
    if isinstance(whole, faiss.IndexIDMap):
        words.append(_shape(whole.index))
    return f"({' '.join(words)})"
