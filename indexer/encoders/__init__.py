"""Frozen image encoders by name: uint8 RGB pictures (n, size, size, 3) → embeddings (n, dim).

`load` builds an encoder from a name, `load_spec` from the spec stored in a table, `catalogue` lists the short names,
`precision_check` compares an encoder with its own fp32 weights. Importing this package does not import torch; `load`
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.encoders.families.catalogue import catalogue
from indexer.encoders.loading import load, load_spec, precision_check

if TYPE_CHECKING:
    from indexer.encoders.encoder import LoadedEncoder as LoadedEncoder

__all__ = ["catalogue", "load", "load_spec", "precision_check"]
