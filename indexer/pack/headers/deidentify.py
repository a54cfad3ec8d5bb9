"""De-identifies a DICOM file's header: only the elements that decoding and our metadata need are written.

The idea of PS3.15 Annex E (basic profile), as an allow-list: an element that is not in it (names, dates, free text,
overlays, private elements) is left out, whatever a vendor put there. UIDs and the patient's ID become keyed hashes.
Values of the pixel data and the transfer syntax stay as they are, byte for byte, but for metadata inside coded images
(`coded_images`) and bytes behind the last pixel. Text burned into the pixels stays too.

This is our own writer on purpose: kept libraries (deid, dicognito) remove what they know to be identifying and keep
the rest, and pydicom's writer converts elements that are not valid, where the bytes must stay as they were.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Any

from indexer.errors import PixelError
from indexer.pack.headers.coded_images import Encapsulated, stripped
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.headers.vocabulary import STANDARD_UID, is_known
from indexer.pixels.decoder_errors import dicom_errors, quiet
from indexer.pixels.dicom.parse import DEFLATED, parsed
from indexer.pixels.dicom.stored import UNCOMPRESSED
from indexer.pixels.limits import MAX_INFLATED

CANNOT = "DICOM header that cannot be de-identified"
METHOD = "embedding-indexer: allow-list of elements, pixels unchanged"  # LO: at most 64 characters
IMPLEMENTATION = "2.25.156482470237391528174563321127098455215"  # of this writer
_UNDEFINED = 0xFFFFFFFF

_Tree = Mapping[str, Mapping[str, Any]]

# What is copied: keyword → what is copied of the items of a sequence.
_LUT: _Tree = {"LUTDescriptor": {}, "LUTData": {}}
_LUTS: _Tree = {"ModalityLUTSequence": _LUT, "VOILUTSequence": _LUT}
_GREY: _Tree = {"RescaleIntercept": {}, "RescaleSlope": {}, "WindowCenter": {}, "WindowWidth": {}, "VOILUTFunction": {}}
_PLANE: _Tree = {
    "ImagePositionPatient": {}, "ImageOrientationPatient": {}, "PixelSpacing": {}, "SliceThickness": {},
    "SpacingBetweenSlices": {},
}  # fmt: skip
_CONTENT: _Tree = {
    "StackID": {}, "InStackPositionNumber": {}, "TemporalPositionIndex": {}, "FrameAcquisitionNumber": {},
}  # fmt: skip
_GROUPS: _Tree = {
    "FrameContentSequence": _CONTENT,
    "PlanePositionSequence": _PLANE,
    "PlaneOrientationSequence": _PLANE,
    "PixelMeasuresSequence": _PLANE,
    "PixelValueTransformationSequence": {**_GREY, "ModalityLUTSequence": _LUT},
    "FrameVOILUTSequence": {**_GREY, "VOILUTSequence": _LUT},
    "TemporalPositionSequence": {"TemporalPositionTimeOffset": {}},
    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": {}, "NominalPercentageOfCardiacPhase": {}},
    "MREchoSequence": {"EffectiveEchoTime": {}},
}
_PIXELS = (  # without one of these, or with another value, the pixels would not be what they were
    "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
)  # fmt: skip
_DATA = ("PixelData", "FloatPixelData", "DoubleFloatPixelData", "ExtendedOffsetTable", "ExtendedOffsetTableLengths")
_OTHERS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "BodyPartExamined", "ImageLaterality", "Laterality", "ViewPosition", "Manufacturer", "ManufacturerModelName",
    "PresentationIntentType", "BurnedInAnnotation", "LossyImageCompression", "SliceLocation", "SpacingBetweenSlices",
    "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio", "PixelPaddingValue",
    "PixelPaddingRangeLimit", "FloatPixelPaddingValue", "FloatPixelPaddingRangeLimit", "DoubleFloatPixelPaddingValue",
    "DoubleFloatPixelPaddingRangeLimit", "FrameTime", "FrameTimeVector", "FrameReferenceTime", "TriggerTime",
    "EchoTime", "TemporalPositionIdentifier", "AcquisitionNumber",
    *(f"{segmented}{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue")
      for segmented, part in (("", "Descriptor"), ("", "Data"), ("Segmented", "Data"))),
)  # fmt: skip
_ALLOWED: _Tree = {
    **{word: {} for word in (*_PIXELS, *_DATA, *_OTHERS)}, **_GREY, **_PLANE, **_LUTS,
    "PerFrameFunctionalGroupsSequence": _GROUPS, "SharedFunctionalGroupsSequence": _GROUPS,
}  # fmt: skip
_EMPTY = (  # type 2 elements: the standard wants them, empty where unknown
    "StudyDate", "StudyTime", "AccessionNumber", "ReferringPhysicianName", "PatientName", "PatientBirthDate",
    "PatientSex", "StudyID", "SeriesNumber", "InstanceNumber",
)  # fmt: skip
_TEXTS = {  # elements with a value of ours
    **dict.fromkeys(_EMPTY, ""),
    "PatientIdentityRemoved": "YES",
    "DeidentificationMethod": METHOD,
    "LongitudinalTemporalInformationModified": "REMOVED",
}
_TERMS = {  # elements of text → the values that are copied
    "VOILUTFunction": ("LINEAR", "LINEAR_EXACT", "SIGMOID"),
    "PresentationIntentType": ("FOR PRESENTATION", "FOR PROCESSING"),
    "BurnedInAnnotation": ("YES", "NO"),
    "LossyImageCompression": ("00", "01"),
}
_FIELDS = {  # elements of text → their field in `vocabulary`
    "Modality": "modality", "BodyPartExamined": "body_part", "ImageLaterality": "laterality",
    "Laterality": "laterality", "ViewPosition": "view", "PhotometricInterpretation": "photometric",
    "Manufacturer": "manufacturer", "ManufacturerModelName": "model",
}  # fmt: skip
_HASHED = {"StudyInstanceUID": "study", "SeriesInstanceUID": "series", "SOPInstanceUID": "instance"}
_OTHER = b"OTHER"  # in place of an unknown term, since a missing one would mean a default
_TEXT_VRS = ("AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT")
_LONG_VRS = ("OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV")  # with a length of 4 bytes
_WIDTHS = {"US": 2, "SS": 2, "UL": 4, "SL": 4, "FL": 4, "FD": 8, "AT": 4, "UV": 8, "SV": 8}
_NUMBERS = re.compile(rb"[0-9+\-.,eE\\ \0]*")
_STACK = re.compile(rb"[A-Za-z]?[0-9]{0,10}[ \0]*")


@dataclass(frozen=True)
class _Encoding:
    implicit: bool
    order: str  # "little" or "big"


def parsed_whole(data: bytes) -> Any:
    """The file's data set. Raises PixelError where it cannot be parsed."""
    quiet()
    try:
        return parsed(BytesIO(data), limit=MAX_INFLATED)
    except PixelError as error:
        raise PixelError(CANNOT, error.detail or error.reason) from error
    except dicom_errors() as error:
        raise PixelError(CANNOT, _words(error)) from error


def deidentified(dataset: Any, keyed: KeyedHash, patient: str) -> bytes:
    """The file with a header of allowed elements only; `patient` is the keyed hash that becomes its PatientID.

    `dataset` is `parsed_whole`'s, none of whose values were converted: what is copied are the file's own bytes.
    Raises PixelError where an element of the pixels' description is not what it must be.
    """
    try:
        syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
        implicit, little = dataset.original_encoding
        if not syntax:
            syntax = "1.2.840.10008.1.2" if implicit else f"1.2.840.10008.1.2.{1 if little else 2}"
        encoding = _Encoding(bool(implicit), "little" if little else "big")
        body = b"".join(_elements(dataset, encoding, keyed, patient, _coded(dataset, syntax)))
        sop_class, instance = _uid(dataset, "SOPClassUID", keyed), _uid(dataset, "SOPInstanceUID", keyed)
    except PixelError as error:
        raise PixelError(CANNOT, error.detail or error.reason) from error
    except dicom_errors() as error:
        raise PixelError(CANNOT, _words(error)) from error
    if not re.fullmatch(r"[0-9.]{1,64}", syntax):
        raise PixelError(CANNOT, "its transfer syntax is no UID")
    return _meta(sop_class, instance, syntax) + (_deflated(body) if syntax == DEFLATED else body)


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _coded(dataset: Any, syntax: str) -> dict[str, bytes]:
    """Keyword → value of encapsulated pixel data and its tables, where metadata are removed from its images."""
    if "PixelData" not in dataset:
        return {}
    raw = dataset.get_item("PixelData")
    if raw.length != _UNDEFINED:
        if syntax in UNCOMPRESSED:
            return {}
        raise PixelError(CANNOT, f"its pixel data are not encapsulated, as {syntax} wants them")
    words = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")
    offsets, lengths = (bytes(dataset.get_item(word).value or b"") if word in dataset else b"" for word in words)
    old = Encapsulated(bytes(raw.value or b""), offsets, lengths)
    counted = dataset.get_item("NumberOfFrames") if "NumberOfFrames" in dataset else None  # as it is, not converted
    frames = str(counted.value or b"", "latin-1").strip(" \0") if counted is not None and counted.is_raw else ""
    new = stripped(old, syntax, int(frames) if frames.isdecimal() else 1)
    return {} if new is old else dict(zip(("PixelData", *words), (new.value, new.offsets, new.lengths), strict=True))


def _elements(
    dataset: Any, encoding: _Encoding, keyed: KeyedHash, patient: str, coded: Mapping[str, bytes]
) -> Iterator[bytes]:
    """The encoded elements in the order of their tags; `coded` are values that replace the data set's."""
    texts = {**_TEXTS, "PatientID": patient}
    for tag, word in _in_order((*{**_ALLOWED, **texts},)):
        if word in texts:
            yield _encoded(tag, _vr(tag), _padded(texts[word].encode(), b" "), encoding)
        elif tag in dataset and word in coded:
            yield _encoded(tag, _vr(tag), coded[word], encoding, undefined=word == "PixelData")
        elif tag in dataset:
            yield _element(dataset, tag, word, _ALLOWED[word], encoding, keyed)


@cache
def _in_order(words: tuple[str, ...]) -> list[tuple[int, str]]:
    """(tag, keyword) of these elements, in the order of their tags."""
    from pydicom.datadict import tag_for_keyword

    return sorted((int(tag_for_keyword(word) or 0), word) for word in words)


def _element(
    dataset: Any, tag: int, word: str, inner: Mapping[str, Any], encoding: _Encoding, keyed: KeyedHash
) -> bytes:
    """One encoded element; empty where it is left out."""
    if inner:
        return _sequence(dataset, tag, inner, encoding, keyed)
    raw = dataset.get_item(tag)
    if not raw.is_raw:
        if raw.is_empty:
            return _encoded(tag, _vr(tag), b"", encoding)
        raise PixelError(CANNOT, f"{word} is not what it must be")
    vr, value = str(raw.VR or _vr(tag))[:2], _value(dataset, word, raw)
    if word.endswith("UID"):
        return _encoded(tag, "UI", _padded(_uid(dataset, word, keyed).encode(), b"\0"), encoding)
    if word in _DATA and raw.length == _UNDEFINED:
        return _encoded(tag, vr, value, encoding, undefined=True)
    if word in _TERMS or word in _FIELDS:
        value = value if _is_term(word, value) else _padded(_OTHER, b" ")
    elif word == "StackID" and not _STACK.fullmatch(value):
        value = keyed("stack", value.decode("latin-1"))[:16].encode()
    elif word != "StackID" and not _is_number(tag, vr, value):
        if word in _PIXELS:
            raise PixelError(CANNOT, f"{word} is not what it must be")
        return b""
    return _encoded(tag, vr, value, encoding)


def _value(dataset: Any, word: str, raw: Any) -> bytes:
    """The value's bytes; of native pixel data the pixels alone, since anything may stand behind them."""
    value: bytes = raw.value or b""
    if word not in _DATA or raw.length == _UNDEFINED:
        return value
    if str(getattr(dataset, "PhotometricInterpretation", "")).endswith(("_422", "_420")):
        return value  # often a name that stayed when the data were converted, so that their length is not known
    from pydicom.pixels.utils import get_expected_length

    try:
        needed = get_expected_length(dataset)
    except dicom_errors():
        return value
    return value[: needed + needed % 2] if needed > 0 else value


def _sequence(dataset: Any, tag: int, inner: Mapping[str, Any], encoding: _Encoding, keyed: KeyedHash) -> bytes:
    element = dataset[tag]
    if element.VR != "SQ":
        return b""
    words = _in_order((*inner,))
    items = []
    for item in element.value:
        body = b"".join(
            _element(item, at, word, inner[word], encoding, keyed) for at, word in words if at in item
        )  # fmt: skip
        items.append(_item_head(0xFFFEE000, len(body), encoding) + body)
    return _encoded(tag, "SQ", b"".join(items), encoding)


def _is_term(word: str, value: bytes) -> bool:
    text = value.decode("latin-1").strip(" \0")
    return not text or (text in _TERMS[word] if word in _TERMS else is_known(_FIELDS[word], text))


def _is_number(tag: int, vr: str, value: bytes) -> bool:
    """Whether a value is what the dictionary says: numbers, as text or binary and not more than allowed, or a table."""
    from pydicom.datadict import dictionary_VM, dictionary_VR

    wanted = _vr(tag)
    if vr == "OW":  # any bytes: only where the dictionary has tables, as for LUTData
        return "OW" in dictionary_VR(tag)
    if wanted.startswith("O"):
        return True
    if wanted in _TEXT_VRS or vr in _TEXT_VRS:
        return bool(_NUMBERS.fullmatch(value)) or (vr in _WIDTHS and _fits(value, vr, dictionary_VM(tag)))
    return _fits(value, wanted, dictionary_VM(tag))


def _fits(value: bytes, vr: str, multiplicity: str) -> bool:
    most = multiplicity.split(" ")[0].rpartition("-")[2]
    return len(value) % _WIDTHS[vr] == 0 and (most == "n" or len(value) <= int(most) * _WIDTHS[vr])


def _uid(dataset: Any, word: str, keyed: KeyedHash) -> str:
    """The UID as it is where it is the standard's, else derived from its keyed hash (PS3.5 annex B.2); "" for none."""
    text = str(dataset.get(word, "") or "").strip(" \0")
    if not text or (word == "SOPClassUID" and STANDARD_UID.fullmatch(text)):
        return text
    return f"2.25.{int(keyed(_HASHED.get(word, word), text), 16)}"


def _vr(tag: int) -> str:
    from pydicom.datadict import dictionary_VR

    return str(dictionary_VR(tag))[:2]  # the first of several: US of "US or SS"


def _encoded(tag: int, vr: str, value: bytes, encoding: _Encoding, *, undefined: bool = False) -> bytes:
    """An element, PS3.5 section 7.1. `undefined`: encapsulated pixels, ended by a delimiter (annex A.4)."""
    nbytes = _UNDEFINED if undefined else len(value)
    head = _tag(tag, encoding)
    if encoding.implicit:
        head += nbytes.to_bytes(4, encoding.order)  # type: ignore[arg-type]
    elif vr in _LONG_VRS or undefined:
        head += vr.encode() + b"\0\0" + nbytes.to_bytes(4, encoding.order)  # type: ignore[arg-type]
    elif nbytes > 0xFFFF:
        raise PixelError(CANNOT, f"an element of {vr} is too long")
    else:
        head += vr.encode() + nbytes.to_bytes(2, encoding.order)  # type: ignore[arg-type]
    return head + value + (_item_head(0xFFFEE0DD, 0, encoding) if undefined else b"")


def _item_head(tag: int, nbytes: int, encoding: _Encoding) -> bytes:
    return _tag(tag, encoding) + nbytes.to_bytes(4, encoding.order)  # type: ignore[arg-type]


def _tag(tag: int, encoding: _Encoding) -> bytes:
    return (tag >> 16).to_bytes(2, encoding.order) + (tag & 0xFFFF).to_bytes(2, encoding.order)  # type: ignore[arg-type]


def _padded(value: bytes, filler: bytes) -> bytes:
    return value + filler * (len(value) % 2)


def _meta(sop_class: str, instance: str, syntax: str) -> bytes:
    """Preamble and meta information, PS3.10 section 7.1."""
    encoding = _Encoding(False, "little")
    texts = ((2, sop_class), (3, instance), (0x10, syntax), (0x12, IMPLEMENTATION))
    body = _encoded(0x00020001, "OB", b"\0\1", encoding)
    for element, text in texts:
        if text:
            body += _encoded(0x00020000 + element, "UI", _padded(text.encode(), b"\0"), encoding)
    length = _encoded(0x00020000, "UL", len(body).to_bytes(4, "little"), encoding)
    return bytes(128) + b"DICM" + length + body


def _deflated(body: bytes) -> bytes:
    """A raw deflate stream of even length, PS3.5 annex A.5."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return _padded(packer.compress(body) + packer.flush(), b"\0")
