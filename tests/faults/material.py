"""A few hundred real images in many small shards, and a folder of others to be packed; with the usual flaws."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
from PIL import Image
from pydicom.uid import generate_uid

from tests.archives import write_tar
from tests.pictures import dicom

PHOTOS = ("astronaut.png", "chelsea.png", "coffee.png", "hubble_deep_field.jpg", "rocket.jpg", "ihc.png", "retina.jpg")
BROKEN_SHARDS = (3, 9, 17, 30, 44, 58)  # each has one JPEG whose bytes are damaged; four are mended before the retry
MENDED = BROKEN_SHARDS[:4]
REPLACED = (5, 21)  # shards that get other content between two runs
LATE = 6  # shards that come with the second run

Member = tuple[str, bytes]


@dataclass(frozen=True)
class Size:
    """How much of it: the whole for `make test-faults`, a part for `make test`."""

    shards: int = 72
    to_pack: int = 96


WHOLE = Size()
SMALL = Size(shards=12, to_pack=24)


@dataclass(frozen=True)
class Material:
    """Folders as a command sees them, and what changes in them while a life goes on."""

    root: Path

    @property
    def shards(self) -> Path:
        return self.root / "shards"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def copy(self, to: Path) -> Material:
        """With times of change, which are part of a shard's identity."""
        shutil.copytree(self.root, to)
        return Material(to)

    def early(self) -> list[Path]:
        """What the first run is given: all but the last shards."""
        return sorted(self.shards.glob("*.tar"))[:-LATE]

    def replace(self) -> None:
        """Other content under the same names."""
        for path in sorted((self.root / "replaced").glob("*.tar")):
            path.replace(self.shards / path.name)

    def mend(self) -> None:
        """The damaged JPEGs are whole again, in files of the same size and time: as after a failing disk's bad read."""
        for path in sorted((self.root / "mended").glob("*.tar")):
            target = self.shards / path.name
            times = target.stat()
            data = path.read_bytes()
            assert len(data) == times.st_size
            target.write_bytes(data)
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
            path.unlink()


def make(root: Path, size: Size = WHOLE) -> Material:
    """Write it; the same bytes each time."""
    found = Material(root)
    for folder in ("shards", "replaced", "mended", "images"):
        (root / folder).mkdir(parents=True)
    photos, slices = _photos(2 * size.shards + size.to_pack), _slices(2 * size.shards + size.to_pack)
    for number in range(size.shards):
        _shard(found, number, photos[2 * number : 2 * number + 2], slices[number])
    for number in range(size.to_pack):
        kind = ("photo/{}.jpg", "brain/{}.png", "scan/{}.dcm")[number % 3]
        path = found.images / kind.format(number)
        path.parent.mkdir(exist_ok=True)
        picture = photos[2 * size.shards + number] if number % 3 == 0 else slices[size.shards + number]
        path.write_bytes(_encoded(picture, path.suffix[1:]))
        os.utime(path, (1e9, 1e9))
    first = "".join(f"s{n}-0,{n % 5},site{n % 4}\n" for n in range(size.shards))
    second = "".join(f"s{n}-0,{n % 5 + 10}\n" for n in range(0, size.shards, 2))  # the others keep their grade
    (root / "labels.csv").write_text("key,grade,site\n" + first)
    (root / "labels2.csv").write_text("key,grade\n" + second)
    return found


def _shard(found: Material, number: int, photos: list[np.ndarray], cut: np.ndarray) -> None:
    name = f"{number:03d}.tar"
    pictures = [("jpg", photos[0]), ("png", cut) if number % 3 else ("dcm", cut)]
    members: list[Member] = []
    for i, (suffix, picture) in enumerate(pictures):
        facts = {"patient": f"p{number // 3}", "age": 30 + number % 40, **({"late": True} if number % 7 == 0 else {})}
        members += [
            (f"s{number}-{i}.{suffix}", _encoded(picture, suffix)),
            (f"s{number}-{i}.json", json.dumps(facts).encode()),
        ]
    if number % 10 == 4:  # the key of an earlier shard once more
        members.append((f"s{number - 2}-0.jpg", _encoded(photos[1], "jpg")))
    if number % 10 == 6:
        members += [(f"s{number}-text.txt", b"no image beside me"), (f"s{number}-empty.png", b"")]
    path = found.shards / name
    if number in BROKEN_SHARDS:
        write_tar(found.root / "mended" / name, members)
        data = members[0][1]
        members[0] = (members[0][0], b"\0" * 40 + data[40:])
        if number not in MENDED:
            (found.root / "mended" / name).unlink()
    write_tar(path, members)
    if number == 7:  # cut inside its second image
        first = sum(512 + -(-len(data) // 512) * 512 for _, data in members[:2])
        path.write_bytes(path.read_bytes()[: first + 700])
    if number in REPLACED:  # one image stays, one goes, one is new
        write_tar(found.root / "replaced" / name, [*members[:2], (f"s{number}-new.jpg", _encoded(photos[1], "jpg"))])


def _photos(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    folder = Path(skimage.__file__).parent / "data"
    whole = [np.asarray(Image.open(folder / name).convert("RGB")) for name in PHOTOS]
    crops = []
    for number in range(count):
        photo = whole[number % len(whole)]
        y, x = (int(rng.integers(0, side - 96)) for side in photo.shape[:2])
        crops.append(photo[y : y + 96, x : x + 96])
    return crops


def _slices(count: int) -> list[np.ndarray]:
    """(h, w) uint16 axial slices of the MNI152 brain, half its resolution, each a little brighter than the last."""
    import nibabel
    import nilearn

    (file,) = (Path(nilearn.__file__).parent / "datasets" / "data").glob("mni_icbm152_t1_tal*converted.nii.gz")
    volume = np.asarray(nibabel.load(file).dataobj, np.float32)[::2, ::2]
    places = np.linspace(volume.shape[2] * 0.2, volume.shape[2] * 0.8, count)
    top = float(volume.max())
    return [(np.rot90(volume[:, :, int(z)]) * (20_000 + 40 * n) / top).astype(np.uint16) for n, z in enumerate(places)]


def _encoded(picture: np.ndarray, suffix: str) -> bytes:
    if suffix == "dcm":
        uid = generate_uid(entropy_srcs=[hashlib.sha256(picture.tobytes()).hexdigest()])
        return dicom(picture, PatientID="nobody", SOPInstanceUID=uid)
    shown = picture if picture.ndim == 3 else (picture >> 7).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, {"jpg": "JPEG", "png": "PNG"}[suffix])
    return file.getvalue()
