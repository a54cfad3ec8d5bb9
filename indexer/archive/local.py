"""Archives that are one local file: their names, first bytes and identities; and formats that are not read, by name."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from indexer.addresses import identity, is_remote
from indexer.archive.samples import lasting_name
from indexer.archive.slides.named import FORMATS
from indexer.errors import InputError, ShardNotFound
from indexer.redact import stored_address
from indexer.types import IMAGE_SUFFIXES

HEAD_BYTES = 512
READ = "tar, zip, Parquet, npz, LMDB or MDS"
_EXPORT = "export its images to a folder, a tar or a Parquet file"
# First bytes or suffixes → what the file is, and the way out
FOREIGN: tuple[tuple[bytes, tuple[str, ...], str, str], ...] = (
    (b"\x89HDF\r\n\x1a\n", ("h5", "hdf5"), "an HDF5 file", _EXPORT),
    (b"7z\xbc\xaf\x27\x1c", ("7z",), "a 7z archive", "unpack it and name the folder"),
    (b"Rar!\x1a\x07", ("rar",), "a rar archive", "unpack it and name the folder"),
    (b"\x93NUMPY", ("npy",), "a bare NumPy array", "save it as an .npz with the arrays train_images and train_labels"),
    (b"SQLite format 3\0", ("sqlite",), "an SQLite database", _EXPORT),
    (b"ARROW1", ("arrow", "feather"), "an Arrow file", "write it as Parquet, e.g. Dataset.to_parquet"),
    (b"", ("tfrecord", "tfrecords"), "a TFRecord file", _EXPORT),
    (b"", ("pkl", "pickle", "pt", "pth"), "a pickle, which can run code", _EXPORT),
    (b"", ("mat",), "a MATLAB file", _EXPORT),
    (b"", tuple(suffix[1:] for suffix in FORMATS), "a whole slide", "index it as one: --tile 256 --mpp 0.5"),
    (b"", ("xlsx", "xls", "ods"), "a spreadsheet", "save the sheet as CSV"),
    (b"", ("json", "jsonl", "txt", "md", "xml", "html", "pdf"), "a text or document", "name the file with the images"),
)


def first_bytes(address: str) -> bytes:
    """The first HEAD_BYTES of a local file; none where it cannot be read."""
    try:
        if not Path(address).is_file():  # opening a pipe would block
            return b""
        with Path(address).open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""


def remote_suffix(address: str) -> str:
    """The suffix of a URL's path, lower case, with its dot; "" for a command."""
    return Path(urlsplit(address).path).suffix.lower() if "://" in address else ""


def local_file(address: str, what: str) -> str:
    """The lasting name of a local archive. Raises ShardNotFound, and InputError for a URL."""
    if is_remote(address):
        raise InputError(
            f"{stored_address(address)}: a {what} is read from a local disk only. Download it and name the file."
        )
    path = Path(address)
    if not path.is_file():
        raise ShardNotFound(f"no such shard or folder: {path}. Name a folder, an archive, a glob in quotes, or a URL.")
    return lasting_name(path)


def local_identity(name: str, *, hash_content: bool) -> str:
    """The identity of a local archive: of size and modification time, or a hash of its bytes."""
    found = identity(name, name, hash_content=hash_content)
    assert found is not None
    return found


def refuse_foreign(path: Path, head: bytes) -> None:
    """Raise InputError for a file of a known format that holds no shard we read, with the way out."""
    suffix = path.suffix.lower().lstrip(".")
    if suffix in IMAGE_SUFFIXES:
        raise InputError(f"{path} is one image, not a shard. Name its folder, or search with it: `indexer search`.")
    for magic, suffixes, what, way_out in FOREIGN:
        if (magic and head.startswith(magic)) or suffix in suffixes:
            raise InputError(f"{path} is {what}, which is not read here: {way_out}.")
