"""The DICOM metadata that are copied into shards: an allow-list, with identifiers as keyed hashes.

All other elements are omitted: names, birth dates, accession numbers, full dates, free text, private elements.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from indexer.errors import InputError
from indexer.pack.headers.secret import KeyedHash
from indexer.pack.headers.vocabulary import STANDARD_UID, stored_term
from indexer.pixels.decoder_errors import dicom_errors, quiet
from indexer.pixels.dicom.parse import parsed

DICOMDIR = "1.2.840.10008.1.3.10"
OLDEST = 90  # years; greater ages are stored as this one (HIPAA, 45 CFR 164.514(b)(2)(i)(C))
HEADER_BYTES = 64 << 20  # of a deflated file; the elements before the pixels lie in these
_AGE = re.compile(r"(\d{3})([DWMY])")
# Words of SeriesDescription that tell masks and crops from the images they were made of, as in CBIS-DDSM
_SERIES_KINDS = (
    ("mask", re.compile(r"\b(masks?|segmentations?)\b", re.IGNORECASE)),
    ("crop", re.compile(r"\bcrop(s|ped)?\b", re.IGNORECASE)),
    ("full", re.compile(r"\bfull\b", re.IGNORECASE)),
)
WHOLE_ID = "whole patient id"  # `patient_from` where PatientIds.pattern does not match
_DIRECT = 0.8  # least cosine of a plane's normal to a patient axis for which the plane is named after that axis

_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "PatientID", "IssuerOfPatientID",
    "Modality", "BodyPartExamined", "ImageLaterality", "Laterality", "ViewPosition", "Manufacturer",
    "ManufacturerModelName", "AcquisitionDate", "ContentDate", "SeriesDate", "StudyDate", "PatientAge",
    "PatientBirthDate", "PatientSex", "Rows", "Columns", "NumberOfFrames", "PhotometricInterpretation",
    "BurnedInAnnotation", "SliceLocation", "ImagePositionPatient", "ImageOrientationPatient", "SeriesDescription",
]  # fmt: skip

FIELDS = (
    "patient", "patient_from", "study", "series", "instance", "modality", "body_part", "laterality", "view",
    "manufacturer", "model", "series_kind", "year", "age", "sex", "rows", "columns", "frames", "photometric",
    "transfer_syntax", "burned_in", "slice_location", "image_position_x", "image_position_y", "image_position_z",
    "image_orientation",
)  # fmt: skip


def read_header(file: BinaryIO) -> Any | None:
    """The listed elements before the pixels; None where there is no readable header. InputError without pydicom."""
    try:
        import pydicom  # noqa: F401 - is it there
    except ImportError as error:
        raise InputError("the source holds DICOM files: pip install 'embedding-indexer[dicom]'") from error
    quiet()
    try:
        return _readable(parsed(file, limit=HEADER_BYTES, stop_before_pixels=True, specific_tags=_TAGS))
    except dicom_errors():
        return None


def header_of(dataset: Any) -> Any | None:
    """What `read_header` reads, of a whole file that is parsed already and stays as it is."""
    from pydicom.datadict import tag_for_keyword
    from pydicom.dataset import Dataset

    tags = [int(tag_for_keyword(word) or 0) for word in ("SpecificCharacterSet", *_TAGS)]
    try:
        header = Dataset({tag: dataset.get_item(tag) for tag in tags if tag in dataset})
        header.file_meta = dataset.file_meta
        header.set_original_encoding(*dataset.original_encoding, dataset.original_character_set)
        return _readable(header)
    except dicom_errors():
        return None


def _readable(header: Any) -> Any | None:
    """The header where it is one of DICOM; else None, or one of pydicom's errors."""
    _ = [header.get(tag) for tag in _TAGS]  # pydicom parses values on access
    known = any(word in header for word in ("SOPClassUID", "SOPInstanceUID", "Rows")) or is_directory(header)
    return header if known else None


def is_directory(header: Any) -> bool:
    """Whether the file is a DICOMDIR, whatever its name."""
    meta = getattr(header, "file_meta", None) or {}
    return str(meta.get("MediaStorageSOPClassUID", "")) == DICOMDIR


def instance_of(header: Any) -> str:
    """SOPInstanceUID, "" where there is none."""
    return _text(header, "SOPInstanceUID")


def series_of(header: Any) -> str:
    """SeriesInstanceUID of a file with one frame, "" for others."""
    return _text(header, "SeriesInstanceUID") if (_whole(header, "NumberOfFrames") or 1) == 1 else ""


@dataclass(frozen=True)
class PatientIds:
    """How a patient is named by a header."""

    site: str = ""  # used for a missing IssuerOfPatientID
    pattern: str = ""  # regular expression: its first group, or all it matches, is the part of PatientID that counts

    def part(self, patient: str) -> str:
        """The part of a PatientID that names the patient: all of it without a pattern; "" where that does not match."""
        if not self.pattern:
            return patient
        match = re.search(self.pattern, patient)
        return (match[1] if match.re.groups else match[0]) or "" if match else ""


def dicom_fields(header: Any, keyed: KeyedHash, patients: PatientIds) -> dict[str, Any]:
    """The allowed fields present in the header, each a plain scalar."""
    found: dict[str, Any] = {**_identity(header, keyed, patients)}
    for field, words in (
        ("modality", ("Modality",)),
        ("body_part", ("BodyPartExamined",)),
        ("laterality", ("ImageLaterality", "Laterality")),
        ("view", ("ViewPosition",)),
        ("photometric", ("PhotometricInterpretation",)),
        ("manufacturer", ("Manufacturer",)),
        ("model", ("ManufacturerModelName",)),
    ):
        text = next((text for word in words if (text := _text(header, word))), "")
        found[field] = stored_term(field, text, keyed) if text else None
    series = _text(header, "SeriesDescription")  # free text, of which only a known word is stored
    found["series_kind"] = next((kind for kind, words in _SERIES_KINDS if words.search(series)), None)
    found["year"] = next((y for w in ("AcquisitionDate", "SeriesDate", "StudyDate") if (y := _year(header, w))), None)
    found["age"] = _age(header)
    sex = _text(header, "PatientSex")
    found["sex"] = sex if sex in ("M", "F", "O") else None
    for field, word in (("rows", "Rows"), ("columns", "Columns"), ("frames", "NumberOfFrames")):
        found[field] = _whole(header, word)
    syntax = str(getattr(getattr(header, "file_meta", None), "TransferSyntaxUID", ""))
    found["transfer_syntax"] = syntax if STANDARD_UID.fullmatch(syntax) else None
    burned = _text(header, "BurnedInAnnotation")
    found["burned_in"] = {"YES": True, "NO": False}.get(burned)
    found.update(_geometry(header))
    return {field: value for field, value in found.items() if value is not None}


def _identity(header: Any, keyed: KeyedHash, patients: PatientIds) -> dict[str, str]:
    uids = {
        "study": _text(header, "StudyInstanceUID"),
        "series": _text(header, "SeriesInstanceUID"),
        "instance": instance_of(header),
    }
    found = {kind: keyed(kind, uid) for kind, uid in uids.items() if uid}
    patient = _text(header, "PatientID")
    if patient:
        issuer = _text(header, "IssuerOfPatientID") or patients.site
        named = patients.part(patient)
        hashed = keyed("patient", f"{issuer}\\{named or patient}")
        return {"patient": hashed, "patient_from": "patient id" if named else WHOLE_ID} | found
    for kind, uid in uids.items():  # without a patient, the study or series is the group
        if uid:
            return {"patient": keyed(kind, uid), "patient_from": kind} | found
    return found


def _text(header: Any, word: str) -> str:
    try:
        value = header.get(word)
    except dicom_errors():
        return ""
    if value is None:
        return ""
    if not isinstance(value, str) and hasattr(value, "__len__") and len(value):
        value = value[0]
    return " ".join(str(value).replace("\0", " ").split())


def _whole(header: Any, word: str) -> int | None:
    text = _text(header, word)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None


def _year(header: Any, word: str) -> int | None:
    text = _text(header, word)[:4]
    return int(text) if text.isascii() and text.isdigit() and 1900 <= int(text) <= 2200 else None


def _age(header: Any) -> int | None:
    """Whole years from PatientAge, or from the dates of birth and study, which are not stored."""
    match = _AGE.fullmatch(_text(header, "PatientAge"))
    if match:
        count = int(match[1])
        return min(OLDEST, count if match[2] == "Y" else count // {"D": 365, "W": 52, "M": 12}[match[2]])
    born, seen = _text(header, "PatientBirthDate"), _text(header, "StudyDate")
    if not (re.fullmatch(r"\d{8}", born) and re.fullmatch(r"\d{8}", seen) and born <= seen):
        return None
    years = int(seen[:4]) - int(born[:4]) - (seen[4:] < born[4:])
    return min(OLDEST, years)


def _numbers(header: Any, word: str, count: int) -> list[float]:
    try:
        values = [float(value) for value in np.atleast_1d(header.get(word))]
    except dicom_errors():
        return []
    return values if len(values) == count and all(map(np.isfinite, values)) else []


def _geometry(header: Any) -> dict[str, Any]:
    """Millimetres in the patient's system (x to the left, y to the back, z to the head; PS3.3 C.7.6.2.1.1)."""
    found: dict[str, Any] = {}
    location = _numbers(header, "SliceLocation", 1)
    if location:
        found["slice_location"] = location[0]
    position = _numbers(header, "ImagePositionPatient", 3)
    found.update(zip(("image_position_x", "image_position_y", "image_position_z"), position, strict=False))
    axes = _numbers(header, "ImageOrientationPatient", 6)
    if axes:
        normal = np.abs(np.cross(axes[:3], axes[3:]))
        named = dict(zip(normal.tolist(), ("sagittal", "coronal", "axial"), strict=True))
        found["image_orientation"] = named[normal.max()] if normal.max() >= _DIRECT else "oblique"
    return found
