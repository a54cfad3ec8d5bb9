"""Maps the exceptions that decoders raise on malformed input to PixelError reasons."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from typing import Any

from indexer.errors import PixelError

# What Pillow, tifffile, pydicom and nibabel were seen to raise on damaged files. Bugs of ours would hide in here too,
# so only calls into those libraries stand inside a `try` that names it.
DECODER_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    Warning,
    struct.error,
    zlib.error,
)


_LIBRARIES = r"(pydicom|PIL|tifffile|nibabel|pylibjpeg|openjpeg|gdcm|jpeg_ls|torchvision)(\.|$)"
_quiet: list[Any] = []  # the filter as the warnings module stores it


_SILENT = logging.CRITICAL + 1
_LOGGERS = ("tifffile", "nibabel", "nibabel.global", "pydicom")


def quiet() -> None:
    """Keep the decoders' Python warnings and logs off the screen: what matters becomes a Failure or a flag.

    A filter by module, set once: `warnings.catch_warnings` is not safe in threads.
    """
    for logger in map(logging.getLogger, _LOGGERS):
        if logger.level != _SILENT:  # setLevel walks over every logger of the process, at half the price of a picture
            logger.setLevel(_SILENT)
    if not (_quiet and _quiet[0] in warnings.filters):
        warnings.filterwarnings("ignore", module=_LIBRARIES)
        _quiet[:] = [warnings.filters[0]]


def dicom_errors() -> tuple[type[BaseException], ...]:
    """With pydicom's own, which have no base in common; to be called where pydicom is in use."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*DECODER_ERRORS, BytesLengthException, InvalidDicomError)


def raster_errors() -> tuple[type[BaseException], ...]:
    """With Pillow's own; to be called where Pillow is in use."""
    from PIL.Image import DecompressionBombError

    return (*DECODER_ERRORS, DecompressionBombError)


# Phrases of Pillow, tifffile, pydicom and nibabel for files that may be whole, in a form they do not know.
_UNSUPPORTED = ("unsupported", "not supported", "not implemented", "requires the 'imagecodecs'")


def named(error: BaseException, kind: str) -> PixelError:
    """The decoder's error as a PixelError, whose reason tells unsupported, truncated and too large from corrupt."""
    if isinstance(error, PixelError):
        return error
    text = f"{kind}: {' '.join(str(error).split()) or type(error).__name__}"[:500]
    if isinstance(error, MemoryError):
        return PixelError("too little memory", text)
    lower = text.lower()
    if isinstance(error, NotImplementedError) or any(phrase in lower for phrase in _UNSUPPORTED):
        return PixelError("unsupported image", text)
    if "decompression bomb" in lower:
        return PixelError("too many pixels", text)
    cut = ("truncated", "premature", "unexpected end", "end of file", "less than expected", "not enough image data")
    if isinstance(error, EOFError) or any(phrase in lower for phrase in cut):
        return PixelError("truncated", text)
    return PixelError("corrupt image", text)
