"""Encoders: a name → a frozen network that turns uint8 squares into vectors, with every fact that can change one.

`load` builds an encoder, `load_spec` the one a table was made with, `catalogue` lists the known ones,
`precision_check` holds an encoder against its own fp32. Importing this package imports no torch; calling `load` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from indexer.encoders.families.catalogue import catalogue
from indexer.encoders.loading import load, load_spec, precision_check

if TYPE_CHECKING:
    from indexer.encoders.encoder import Encoder as Encoder

__all__ = ["catalogue", "load", "load_spec", "precision_check"]
