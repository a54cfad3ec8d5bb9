"""12-bit JPEG by GDCM directly: pydicom's GDCM plugin excludes it, though GDCM and dcmtk agree bit for bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from indexer.errors import PixelError
from indexer.pixels.limits import MAX_INFLATED


def gdcm_frames(data: bytes, dataset: Any, indices: Sequence[int]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(index, stored values (h, w)) of grey frames. Raises PixelError. GDCM decodes all frames at once."""
    import gdcm

    rows, columns = int(dataset.Rows), int(dataset.Columns)
    with tempfile.TemporaryFile() as file:  # unlinked, so that a crash leaves nothing behind
        file.write(data)
        file.flush()
        reader = gdcm.ImageReader()
        reader.SetFileName(f"/dev/fd/{file.fileno()}")
        if not reader.Read():
            raise PixelError("corrupt image", "DICOM: GDCM cannot read it")
        image = reader.GetImage()
        layout = image.GetPixelFormat()
        if layout.GetSamplesPerPixel() != 1 or layout.GetBitsAllocated() not in (8, 16):
            raise PixelError("unsupported transfer syntax", f"12-bit JPEG of {layout.GetSamplesPerPixel()} samples")
        if image.GetBufferLength() > MAX_INFLATED:
            raise PixelError("too many pixels", f"{image.GetBufferLength():,} bytes in all frames")
        buffer = image.GetBuffer().encode("utf-8", "surrogateescape")  # GDCM's binding returns bytes as a str
    signed = "i" if layout.GetPixelRepresentation() else "u"
    values = np.frombuffer(buffer, f"{signed}{layout.GetBitsAllocated() // 8}")
    frame = rows * columns
    for index in indices:
        if (index + 1) * frame > len(values):
            raise PixelError("truncated", f"DICOM: GDCM gave {len(values)} values, frame {index} is not among them")
        yield index, values[index * frame : (index + 1) * frame].reshape(rows, columns)
