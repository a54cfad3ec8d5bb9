"""Maps the exceptions that decoders raise on malformed input to PixelError reasons."""

from __future__ import annotations

import logging
import struct
import warnings
import zlib
from typing import Any

from indexer.errors import PixelError

# Exceptions that Pillow, tifffile, pydicom and nibabel raised on damaged files. They would also hide bugs of this
# package, so a `try` that catches them contains only calls into those libraries.
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
_LOGGERS = tuple(map(logging.getLogger, ("tifffile", "nibabel", "nibabel.global", "pydicom")))


def quiet() -> None:
    """Silence the decoders' Python warnings and logs: relevant ones become a Failure or a flag.

    Filters by module, set once: `warnings.catch_warnings` is not thread-safe.
    """
    for logger in _LOGGERS:
        if logger.level != _SILENT:  # setLevel visits every logger of the process, in half the time of a decode
            logger.setLevel(_SILENT)
    if not (_quiet and _quiet[0] in warnings.filters):
        warnings.filterwarnings("ignore", module=_LIBRARIES)
        _quiet[:] = [warnings.filters[0]]


def dicom_errors() -> tuple[type[BaseException], ...]:
    """The decoder errors and pydicom's own, which share no base class. Imports pydicom."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (*DECODER_ERRORS, BytesLengthException, InvalidDicomError)


def raster_errors() -> tuple[type[BaseException], ...]:
    """The decoder errors and Pillow's own. Imports Pillow."""
    from PIL.Image import DecompressionBombError

    return (*DECODER_ERRORS, DecompressionBombError)


# Phrases in messages of Pillow, tifffile, pydicom and nibabel about intact files of an unsupported form.
_UNSUPPORTED = ("unsupported", "not supported", "not implemented", "requires the 'imagecodecs'")


def named(error: BaseException, kind: str) -> PixelError:
    """The decoder's error as a PixelError with the reason unsupported, truncated, too large or corrupt."""
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
