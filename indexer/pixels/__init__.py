"""Decodes image bytes to the uint8 RGB square that an encoder takes. Decoder libraries are imported when needed."""

from indexer.pixels.dispatch import Opened, decode, decode_missing, decode_part, open_image

__all__ = ["Opened", "decode", "decode_missing", "decode_part", "open_image"]
