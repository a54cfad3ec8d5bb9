"""Facts of each frame from a DICOM header: position, time, and its index in stacks and temporal series."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from indexer.pixels.decoder_errors import dicom_errors
from indexer.pixels.dicom.elements import group, number, numbers
from indexer.pixels.parts import Facts
from indexer.types import Fact

FACT_TAGS = (  # the elements that the facts of a file with one frame come from
    "NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "SpacingBetweenSlices", "EchoTime",
    "TemporalPositionIdentifier", "AcquisitionNumber", "NominalPercentageOfCardiacPhase", "FrameReferenceTime",
    "TriggerTime", "FrameTime", "FrameTimeVector", "PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence",
)  # fmt: skip


class FrameFacts:
    """Facts of frame `index` (from 0) of a data set; missing or unreadable ones are omitted.

    frame: index, of several; z: mm from the scanner's origin along the normal of the slice; u, v: along its rows and
    columns; orientation: their six cosines; spacing: mm between slices, as the header says; echo: ms; phase: of the
    heart's cycle (%) or the number of a temporal position; acquisition: its number; time: seconds; stack,
    stack_position, temporal: the frame content's StackID, InStackPositionNumber and TemporalPositionIndex.
    """

    def __init__(self, dataset: Any, count: int) -> None:
        self._dataset, self._count = dataset, count
        self._starts: Sequence[float] | None = None

    def __call__(self, index: int) -> Facts:
        facts: dict[str, Fact] = {"frame": index} if self._count > 1 else {}
        try:
            facts |= self._place(index)
        except dicom_errors():
            pass
        for name, read in (
            ("spacing", self._spacing), ("echo", self._echo), ("phase", self._phase),
            ("acquisition", self._acquisition), ("time", self._seconds),
        ):  # fmt: skip
            try:
                value = read(index)
            except dicom_errors():
                continue
            if value is not None and math.isfinite(value):
                facts[name] = round(value, 6)
        try:
            content = group(self._dataset, index, "FrameContentSequence")
            facts |= _content(content) if content is not self._dataset else {}
        except dicom_errors():
            pass
        return facts

    def _place(self, index: int) -> dict[str, Fact]:
        """PS3.3 C.7.6.2.1.1: position (mm) along the normal, the cross product of the row and column directions."""
        plane = group(self._dataset, index, "PlanePositionSequence")
        if plane is self._dataset and self._count > 1:
            return {}  # the top level has the position of the first frame only
        position = numbers(plane, "ImagePositionPatient", 3)
        directions = numbers(group(self._dataset, index, "PlaneOrientationSequence"), "ImageOrientationPatient", 6)
        if position is None or directions is None:
            return {}
        (a, b, c), (d, e, f) = directions[:3], directions[3:]
        x, y, z = position
        along = (b * f - c * e) * x + (c * d - a * f) * y + (a * e - b * d) * z
        placed = {"z": along, "u": a * x + b * y + c * z, "v": d * x + e * y + f * z}
        if not all(map(math.isfinite, placed.values())):
            return {}
        cosines = "\\".join(f"{round(value, 5) + 0.0:g}" for value in directions)
        return {name: round(value, 6) for name, value in placed.items()} | {"orientation": cosines}

    def _spacing(self, index: int) -> float | None:
        return number(group(self._dataset, index, "PixelMeasuresSequence"), "SpacingBetweenSlices")

    def _echo(self, index: int) -> float | None:
        echo = group(self._dataset, index, "MREchoSequence")
        return number(echo, "EchoTime" if echo is self._dataset else "EffectiveEchoTime")

    def _phase(self, index: int) -> float | None:
        heart = group(self._dataset, index, "CardiacSynchronizationSequence")
        share = number(heart, "NominalPercentageOfCardiacPhase")
        return number(self._dataset, "TemporalPositionIdentifier") if share is None else share

    def _acquisition(self, index: int) -> float | None:
        content = group(self._dataset, index, "FrameContentSequence")
        return number(content, "AcquisitionNumber" if content is self._dataset else "FrameAcquisitionNumber")

    def _seconds(self, index: int) -> float | None:
        """From the functional groups; else C.7.6.5 (FrameTime, FrameTimeVector in ms); else of the only frame."""
        temporal = group(self._dataset, index, "TemporalPositionSequence")
        offset = number(temporal, "TemporalPositionTimeOffset")
        if offset is not None:
            return offset
        delay = number(group(self._dataset, index, "CardiacSynchronizationSequence"), "NominalCardiacTriggerDelayTime")
        if delay is not None:
            return delay / 1000
        if self._count == 1:
            found = (number(self._dataset, word) for word in ("FrameReferenceTime", "TriggerTime"))
            return next((value / 1000 for value in found if value is not None), None)
        starts = self._frame_times()
        return starts[index] if index < len(starts) else None

    def _frame_times(self) -> Sequence[float]:
        """Seconds of each frame from the first. FrameTimeVector holds differences to the previous frame, FrameTime one
        constant difference.
        """
        if self._starts is None:
            vector = numbers(self._dataset, "FrameTimeVector", None)
            step = number(self._dataset, "FrameTime")
            total, starts = 0.0, []
            for increment in vector or ():
                total += increment / 1000
                starts.append(total)
            if not starts and step is not None and step > 0:
                starts = [index * step / 1000 for index in range(self._count)]
            self._starts = starts
        return self._starts


def _content(content: Any) -> dict[str, Fact]:
    """C.7.6.16.2.2, Frame Content."""
    facts: dict[str, Fact] = {}
    stack = getattr(content, "StackID", None)
    if stack not in (None, ""):
        facts["stack"] = str(stack)
    for name, word in (("stack_position", "InStackPositionNumber"), ("temporal", "TemporalPositionIndex")):
        value = number(content, word)
        if value is not None:
            facts[name] = int(value)
    return facts
