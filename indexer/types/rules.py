"""Rules that a table keeps: how keys are made, and how slides are cut."""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("last-dot", "first-dot")  # KeyRule.split


@dataclass(frozen=True)
class KeyRule:
    """How the members of archives become samples and keys: one rule for a table, which keeps it.

    `split` cuts a member's name: at the last dot before a known ending, so that every image is a sample of its own
    (names of DICOM files hold many dots); or at the first dot of the last part, as webdataset does, so that all members
    of that stem are one sample with one image. In a folder of loose images a key is the path, whatever `split` is.
    Raises ValueError for a rule that there is not: tables may come from elsewhere.
    """

    split: str = "last-dot"  # last-dot | first-dot
    prefix: int = 0  # so many last parts of the archive's own path, without its suffix, are put before its keys

    def __post_init__(self) -> None:
        if self.split not in SPLITS or type(self.prefix) is not int or self.prefix < 0:
            raise ValueError(f"no rule for keys: {self.split!r}, {self.prefix!r}")


@dataclass(frozen=True)
class TileRule:
    """How slides are cut into tiles: one rule for a table, which keeps it. Raises ValueError for one out of bounds.

    Tiles lie side by side from the slide's upper left corner; the strips at its right and lower edges that are narrower
    than a tile are left out.
    """

    tile: int  # pixels of a tile's side
    mpp: float  # micrometres a pixel of a tile
    tissue: float = 0.25  # a tile with a smaller share of tissue is left out
    saturation: int = 15  # of 255, above which a pixel of the overview is tissue (`slides.tissue`)

    def __post_init__(self) -> None:
        sound = 16 <= self.tile <= 4096 and 0.02 <= self.mpp <= 100 and 0 <= self.tissue <= 1
        if not sound or not 0 <= self.saturation <= 254:
            raise ValueError(f"no rule for tiles: {self.tile!r}, {self.mpp!r}, {self.tissue!r}, {self.saturation!r}")
