"""DICOM files of every kind of header, whole and damaged."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from indexer.pixels.decoder_errors import quiet
from tests.mutations import mutated

PLAIN = (ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian)
PACKED = {RLELossless: "pydicom", JPEGLSLossless: "pyjpegls", JPEG2000Lossless: "pylibjpeg"}  # and who packs them
NUMBERS = ("1", "2", "0.5", "-1", "0", "1e1", " 3 ", "1,5", "abc", "", "1\\2", "1\\x", "NaN", "1e400", "--", "+4.")
CENTRES = ("40", "127.5", "-600", "2048", "40\\400", "0", "1,5", "abc", "", "30000")
WIDTHS = ("80", "256", "1", "0.5", "0", "-5", "4096\\80", "400", "1500,5", "x", "", "60000")
FUNCTIONS = ("LINEAR", "LINEAR_EXACT", "SIGMOID", "sigmoid", "ODD", "")
TEXTS = {"RescaleSlope": NUMBERS, "RescaleIntercept": NUMBERS, "WindowCenter": CENTRES, "WindowWidth": WIDTHS}
SIZES = ("BitsStored", "HighBit", "BitsAllocated", "PixelRepresentation", "SamplesPerPixel", "Rows", "Columns")


def dicom_files(count: int, seed: int) -> Iterator[bytes]:
    """Half of them whole; of the others half have odd elements and half damaged bytes."""
    quiet()
    for number in range(count):
        rng = random.Random(f"dicom-{seed}-{number}")
        act = rng.random()
        data = _file(rng, np.random.default_rng(rng.randrange(2**32)), odd=0.5 < act < 0.75)
        if act > 0.75:
            _, data = next(iter(mutated([data], 1, rng.randrange(2**32))))
        yield data


def _file(rng: random.Random, numbers: np.random.Generator, *, odd: bool) -> bytes:
    syntax = rng.choice(PLAIN * 2 + tuple(PACKED))
    photometric = rng.choice(("MONOCHROME2",) * 4 + ("MONOCHROME1",) * 2 + ("RGB", "YBR_FULL", "PALETTE COLOR"))
    dataset = _dataset(syntax, photometric)
    _pixels(dataset, rng, numbers)
    if photometric.startswith("MONOCHROME"):
        _grey(dataset, rng, numbers)
    if photometric == "PALETTE COLOR":
        _palette(dataset, numbers)
    if odd:
        _made_odd(dataset, rng)
    file = io.BytesIO()
    with pydicom.config.disable_value_validation():
        pydicom.dcmwrite(
            file, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian, force_encoding=True
        )
    return file.getvalue()


def _dataset(syntax: Any, photometric: str) -> FileDataset:
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    dataset = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.PhotometricInterpretation = photometric
    return dataset


def _pixels(dataset: FileDataset, rng: random.Random, numbers: np.random.Generator) -> None:
    """Cells with anything in the bits outside the value; packed by pydicom's encoders where the syntax packs them."""
    syntax, photometric = dataset.file_meta.TransferSyntaxUID, str(dataset.PhotometricInterpretation)
    packed = syntax in PACKED
    grey = photometric.startswith("MONOCHROME")
    samples = 3 if photometric in ("RGB", "YBR_FULL") else 1
    allocated = rng.choice((8, 16, 16, 16) if grey else (8,) if photometric != "RGB" else (8, 8, 16))
    if grey and not packed and rng.random() < 0.1:
        allocated = 32
    least = 9 if syntax == RLELossless and allocated == 16 else 2  # pydicom packs fewer bits into one byte
    stored = rng.randint(least, allocated) if grey and rng.random() < 0.6 else allocated
    high = stored - 1 if packed or rng.random() < 0.7 else rng.randint(stored - 1, allocated - 1)
    signed = int(grey and syntax != JPEGLSLossless and rng.random() < 0.4)
    rows, columns, frames = rng.choice((1, 4, 9, 16)), rng.choice((2, 8, 15, 20)), rng.choice((1, 1, 1, 2, 3))
    if syntax == JPEG2000Lossless:
        rows, columns = 40, 48  # its encoder refuses smaller ones
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = rows, columns, samples
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = allocated, stored, high
    dataset.PixelRepresentation = signed
    if samples == 3:
        dataset.PlanarConfiguration = rng.choice((0, 1))
    if frames > 1:
        dataset.NumberOfFrames = frames
    cells = numbers.integers(0, 2**allocated, (frames, rows, columns, samples), dtype=np.uint64)
    if packed:
        cells &= np.uint64(2**stored - 1)
        if signed:  # encoders take whole numbers of the cell's type
            cells = ((cells << np.uint64(64 - stored)).view(np.int64) >> (64 - stored)).view(np.uint64)
            cells &= np.uint64(2**allocated - 1)
        dataset.PlanarConfiguration = 0
        dataset.PixelData = _even(cells.astype(f"<u{allocated // 8}").tobytes())
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        with suppress(RuntimeError):  # CharLS refuses noise that it cannot make smaller: it stays unpacked
            dataset.compress(syntax, encoding_plugin=PACKED[syntax], generate_instance_uid=False)
        if samples == 1 and "PlanarConfiguration" in dataset:
            del dataset.PlanarConfiguration
        return
    if samples == 3 and dataset.PlanarConfiguration == 1:
        cells = np.moveaxis(cells, -1, 1)
    order = ">" if syntax == ExplicitVRBigEndian else "<"
    data = np.ascontiguousarray(cells).astype(f"{order}u{allocated // 8}").tobytes()
    dataset.add_new("PixelData", "OB" if allocated == 8 and syntax != ImplicitVRLittleEndian else "OW", _even(data))


def _even(data: bytes) -> bytes:
    return data + b"\0" * (len(data) % 2)


def _grey(dataset: FileDataset, rng: random.Random, numbers: np.random.Generator) -> None:
    """Modality and VOI, at the top level or in the frames' functional groups; padding."""
    frames = int(dataset.get("NumberOfFrames", 1))
    if frames > 1 and rng.random() < 0.5:
        groups = [Dataset() for _ in range(frames)]
        for item in groups:
            transformation, voi = Dataset(), Dataset()
            _modality(transformation, dataset, rng, numbers, luts=False)
            _window(voi, rng, numbers, luts=False)
            for word, part in (("PixelValueTransformationSequence", transformation), ("FrameVOILUTSequence", voi)):
                if len(part):
                    setattr(item, word, [part])
        if rng.random() < 0.5:
            dataset.SharedFunctionalGroupsSequence = groups[:1]
            dataset.PerFrameFunctionalGroupsSequence = [Dataset() for _ in groups]
        else:
            dataset.PerFrameFunctionalGroupsSequence = groups
    else:
        _modality(dataset, dataset, rng, numbers)
        _window(dataset, rng, numbers)
    if rng.random() < 0.3:
        low = -(2 ** (dataset.BitsStored - 1)) if dataset.PixelRepresentation else 0
        value = min(max(rng.choice((low, low + 1, 0, 3, low + 2**dataset.BitsStored - 1)), -32768), 65535)
        vr = "SS" if dataset.PixelRepresentation or rng.random() < 0.3 else "US"
        cell = (lambda n: ((n + 32768) % 65536) - 32768) if vr == "SS" else (lambda n: n & 0xFFFF)
        dataset.add_new("PixelPaddingValue", vr, cell(value))
        if rng.random() < 0.4:
            dataset.add_new("PixelPaddingRangeLimit", vr, cell(value + rng.choice((-20, 5, 60))))


def _modality(target: Any, dataset: Any, rng: random.Random, numbers: np.random.Generator, luts: bool = True) -> None:
    if luts and rng.random() < 0.15:
        first = rng.choice((0, 5, -3 if dataset.PixelRepresentation else 300))
        target.ModalityLUTSequence = [_lut(first, 2 ** rng.choice((4, 8)), rng.choice((8, 12, 16)), rng, numbers)]
        target.ModalityLUTSequence[0].ModalityLUTType = "US"
    elif rng.random() < 0.6:
        target.add_new("RescaleSlope", "DS", rng.choice(("1", "2", "0.5", "-1", "0.0049", "1e1")))
        target.add_new("RescaleIntercept", "DS", rng.choice(("0", "-1024", "10.5", "-0.25")))


def _window(target: Any, rng: random.Random, numbers: np.random.Generator, luts: bool = True) -> None:
    act = rng.random()
    if luts and act < 0.15:
        first = rng.choice((0, 40, 65000))
        target.VOILUTSequence = [_lut(first, 2 ** rng.choice((4, 8)), rng.choice((8, 12, 16)), rng, numbers)]
    elif act < 0.75:
        centre, width = rng.choice(
            (("40", "80"), ("127.5", "256"), ("-600", "1500"), ("2048\\10", "4096\\8"), ("0", "1"))
        )
        target.add_new("WindowCenter", "DS", centre)
        target.add_new("WindowWidth", "DS", width)
        if rng.random() < 0.5:
            target.VOILUTFunction = rng.choice(FUNCTIONS[:3])


def _lut(first: int, entries: int, bits: int, rng: random.Random, numbers: np.random.Generator) -> Dataset:
    item = Dataset()
    vr = "SS" if first < 0 else "US"
    item.add_new("LUTDescriptor", vr, [entries, first, bits])
    item.add_new("LUTData", "US", numbers.integers(0, 2**bits, entries).tolist())
    return item


def _palette(dataset: FileDataset, numbers: np.random.Generator) -> None:
    for colour in ("Red", "Green", "Blue"):
        dataset.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [256, 0, 16])
        order = ">u2" if dataset.file_meta.TransferSyntaxUID == ExplicitVRBigEndian else "<u2"
        table = numbers.integers(0, 65536, 256).astype(order).tobytes()
        dataset.add_new(f"{colour}PaletteColorLookupTableData", "OW", table)


def _made_odd(dataset: FileDataset, rng: random.Random) -> None:
    """Elements that another program may have written so: other VRs, other texts, elements that are not there."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        act = rng.random()
        if act < 0.55:
            word, values = rng.choice(list(TEXTS.items()))
            _text(dataset, word, rng.choice(("DS", "DS", "LO", "UT", "SH", "ST")), rng.choice(values))
        elif act < 0.65:
            _text(dataset, "VOILUTFunction", "CS", rng.choice(FUNCTIONS))
        elif act < 0.75:
            _text(
                dataset, rng.choice(("PixelPaddingValue", "PixelPaddingRangeLimit")), "LO", rng.choice(("5", "x", ""))
            )
        elif act < 0.85:
            dataset.add_new(rng.choice(SIZES), "US", rng.choice((0, 1, 2, 7, 8, 12, 15, 16, 17, 32, 65535)))
        elif act < 0.92:
            word = rng.choice((*SIZES, "PlanarConfiguration", "PhotometricInterpretation"))
            if word in dataset:
                del dataset[word]
        else:
            _text(
                dataset,
                "NumberOfFrames",
                rng.choice(("IS", "LO")),
                rng.choice(("1", "2", "0", "", "7", "-1", "2.0", "x")),
            )


def _text(dataset: FileDataset, word: str, vr: str, text: str) -> None:
    """An element by its bytes, which pydicom's own classes would refuse."""
    syntax, data = dataset.file_meta.TransferSyntaxUID, text.encode() + b" " * (len(text) % 2)
    tag = BaseTag(tag_for_keyword(word))
    dataset[tag] = RawDataElement(tag, vr, len(data), data, 0, syntax.is_implicit_VR, syntax.is_little_endian)
