"""Bytes of an image in an archive → the uint8 RGB square an encoder sees. No heavy import until a kind needs it."""

from indexer.pixels.dispatch import Opened, decode, decode_missing, decode_part, open_image

__all__ = ["Opened", "decode", "decode_missing", "decode_part", "open_image"]
