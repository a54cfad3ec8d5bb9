"""The folders and URLs from which this user indexed each table: a table's images are read back only from there.

A table may come from somebody else, and its ledger may name any file of this machine. The trusted addresses are
therefore kept outside the table, in the user's state directory ($XDG_STATE_HOME/embedding-indexer/roots.json, mode
600).
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from indexer.addresses import is_remote
from indexer.redact import PIPE, can_be_reopened, stored_address


def state_file() -> Path:
    """The file that holds the roots."""
    home = os.environ.get("XDG_STATE_HOME", "")
    folder = Path(home) if Path(home).is_absolute() else Path("~/.local/state").expanduser()
    return folder / "embedding-indexer" / "roots.json"


def remember(table: str, addresses: Iterable[str]) -> bool:
    """Add the roots of these shard addresses to those of a table. False where the state directory cannot be written."""
    new = {root for address in _one_of_each_folder(addresses) if (root := _root_of(address))}
    try:
        with _locked(state_file()) as file:
            tables = _read(file)
            known = set(tables.get(table, ()))
            if not new <= known:
                tables[table] = sorted(known | new)
                _write(file, tables)
    except OSError:
        return False
    return True


def remembered(table: str) -> tuple[str, ...]:
    """The roots that this user indexed a table from."""
    return tuple(_read(state_file()).get(table, ()))


def named(roots: Iterable[str]) -> tuple[str, ...]:
    """Roots given by the user, made absolute."""
    return tuple(root if is_remote(root) else str(Path(root).expanduser().resolve()) for root in roots)


def is_below(address: str, roots: Sequence[str]) -> bool:
    """Whether a stored address, with links resolved, is one of the roots or lies below one; False for a command."""
    if address.startswith(PIPE):
        return False
    if is_remote(address):
        climbs = ".." in address.replace("%2e", ".").replace("%2E", ".").split("/")
        return not climbs and any(address == root or address.startswith(f"{root.rstrip('/')}/") for root in roots)
    path = Path(address).resolve()
    return any(path.is_relative_to(root) for root in roots if not is_remote(root))


def _one_of_each_folder(addresses: Iterable[str]) -> Iterator[str]:
    """Without the files of a folder of which one was given: they have its root, and there may be a million of them."""
    folders: set[str] = set()
    for address in addresses:
        if not is_remote(address) and _is_plain_file(address):
            folder = os.path.dirname(address)  # noqa: PTH120 - a Path for each file would take most of the time
            if folder in folders:
                continue
            folders.add(folder)
        yield address


def _is_plain_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)  # of a link the root is where it leads
    except OSError:
        return False


def _root_of(address: str) -> str:
    """The root of an address: a folder itself, the folder of a file, a URL up to its last slash; "" for an address
    that cannot be opened again.
    """
    if is_remote(address):
        stored = stored_address(address)
        return stored.rpartition("/")[0] if can_be_reopened(stored) else ""
    path = Path(address).resolve()
    return str(path if path.is_dir() else path.parent)


@contextmanager
def _locked(file: Path) -> Iterator[Path]:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(file.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield file
    finally:
        os.close(lock)


def _read(file: Path) -> dict[str, list[str]]:
    """Roots by table; none where the file is missing or damaged: images then need --pictures-from."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(content, dict):
        return {}
    return {
        table: [r for r in roots if isinstance(r, str)] for table, roots in content.items() if isinstance(roots, list)
    }


def _write(file: Path, tables: dict[str, list[str]]) -> None:
    new = file.with_suffix(".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="surrogateescape") as out:
        json.dump(tables, out, indent=1)
    new.replace(file)
