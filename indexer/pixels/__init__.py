"""Decodes image bytes to the uint8 RGB square that an encoder takes. Decoder libraries are imported when needed."""

from indexer.pixels.dispatch import OpenedImage, decode, decode_missing, decode_part, open_image

__all__ = ["OpenedImage", "decode", "decode_missing", "decode_part", "open_image"]
