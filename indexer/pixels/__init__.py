"""Bytes of an image in an archive → the uint8 RGB square an encoder sees. No heavy import until a kind needs it."""

from indexer.pixels.dispatch import decode

__all__ = ["decode"]
