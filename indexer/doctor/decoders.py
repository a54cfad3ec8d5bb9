"""Tests which image formats and DICOM transfer syntaxes this machine decodes, each with a small specimen file."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np

from indexer.doctor.specimens import LEVELS, SIDE, SYNTAXES, Specimen, Syntax, dicom, files
from indexer.errors import PixelError
from indexer.pixels import decode
from indexer.pixels.decoder_errors import quiet
from indexer.types import PixelSpec

DICOM_EXTRA = "pip install 'embedding-indexer[dicom]'"
NIFTI_EXTRA = "pip install 'embedding-indexer[nifti]'"
_SPEC = PixelSpec(SIDE, SIDE, fit="squash", window="minmax")
_PACKAGES = {  # the package that decodes a kind first; other kinds are decoded by Pillow
    "JPEG": "simplejpeg",
    "TIFF 8 bit": "tifffile",
    "TIFF 16 bit": "tifffile",
    **dict.fromkeys(("NIfTI", "NRRD", "MetaImage"), "nibabel"),
}
_PLUGIN_PACKAGES = {"gdcm": "python-gdcm", "gdcm itself": "python-gdcm", "pyjpegls": "pyjpegls"}


@dataclass(frozen=True)
class Tried:
    """The result for one format. `detail`: why it does not decode, and the remedy."""

    name: str
    works: bool
    decoder: str  # package and version
    detail: str = ""


@dataclass(frozen=True)
class TriedSyntax:
    """The result for one DICOM transfer syntax."""

    uid: str
    name: str
    works: bool
    decoder: str
    detail: str = ""


def try_formats() -> tuple[Tried, ...]:
    """Results for every kind of image file except DICOM."""
    return tuple(_format(specimen) for specimen in files())


def _format(specimen: Specimen) -> Tried:
    package = _PACKAGES.get(specimen.name, "pillow")
    try:
        data = specimen.make()
    except ImportError:
        way_out = f": {NIFTI_EXTRA}" if package == "nibabel" else ""
        return Tried(specimen.name, False, "", f"{package} is not installed{way_out}")
    except (OSError, KeyError, ValueError) as error:  # a Pillow built without a codec cannot write it either
        return Tried(specimen.name, False, with_version(package), f"not in this build: {error}")
    problem = trouble(data, specimen.suffix, specimen.tolerance)
    return Tried(specimen.name, not problem, with_version(package), problem)


def try_syntaxes() -> tuple[TriedSyntax, ...]:
    """Results for every DICOM transfer syntax of still images; () without pydicom."""
    try:
        import pydicom  # noqa: F401 - is it here
    except ImportError:
        return ()
    quiet()
    return tuple(_syntax(syntax) for syntax in SYNTAXES)


def _syntax(syntax: Syntax) -> TriedSyntax:
    from pydicom.uid import UID

    name, problem = UID(syntax.uid).name, trouble(dicom(syntax), "dcm", syntax.tolerance)
    return TriedSyntax(syntax.uid, name, not problem, _decoder(syntax) if not problem else "", problem)


def _decoder(syntax: Syntax) -> str:
    from indexer.pixels.dicom.stored import available

    if not syntax.stream:
        return with_version("pydicom")
    plugins = available(syntax.uid)
    if syntax.stream == "jpeg 12 bit":  # Pillow is tried before it, but decodes 8 bits only
        plugins = tuple(plugin for plugin in plugins if plugin != "pillow")
    if plugins[0] == "pylibjpeg":
        return with_version("pylibjpeg-libjpeg" if ".4.5" in syntax.uid else "pylibjpeg-openjpeg")
    return with_version(_PLUGIN_PACKAGES.get(plugins[0], plugins[0]))


def trouble(data: bytes, suffix: str, tolerance: int) -> str:
    """Empty where the file decodes to the image that was written; else the difference, or the decoder's message."""
    try:
        (picture,) = decode(data, suffix, _SPEC)
    except PixelError as error:
        return str(error)
    off = int(np.abs(picture.pixels.astype(int) - LEVELS[..., None]).max())
    return "" if off <= tolerance else f"decodes, and wrongly: off by {off} grey levels"


def with_version(package: str) -> str:
    """`package 1.2.3`; only the name where it is not an installed package."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return package
