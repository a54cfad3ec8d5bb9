"""Where the lease of a table is kept: one object of its object store, or a file of its folder."""

from __future__ import annotations

import errno
import math
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from indexer.remote.objects import Bucket, Held, Tag
from indexer.store.holding.lease import Record, Seen

RECORD_BYTES = 512  # of a lease file: it is overwritten in place, in one write
SETTLE_SECONDS = 2.0  # on a store without conditional puts: after these the last record written stands
UNCONDITIONAL = (
    "{uri} ignores conditional puts (a second put-if-absent succeeded): only one writer may run at a time. A second "
    "one is refused while this one runs, but two that start in the same moment may damage the table."
)


class ObjectPlace:
    """The object `<table>.lease`, written with put-if-absent and then with put-if-match.

    Whether the store honours both is tried on an object of its own first, since some answer 200 and overwrite.
    """

    local = False

    def __init__(self, uri: str, table: str) -> None:
        self._uri, self._name = uri, f"{table}.lease"
        self._bucket = Bucket(uri)
        self._tag: Tag | None = None  # of this holder's record
        self._now = math.nan  # the server's clock when it was tried
        self._looked = time.monotonic()
        self.conditional = True
        self.notes: tuple[str, ...] = ()

    def prove(self) -> bool:
        """Whether a conditional put holds here. Leaves nothing behind. Raises OSError."""
        name = f"{self._name}-probe-{secrets.token_hex(8)}"
        try:
            first = self._bucket.put_if(name, b"first", None)
            again = self._bucket.put_if(name, b"again", None)
            found = self._bucket.get(name)
            matched = self._bucket.put_if(name, b"matched", first) if first else None
            stale = self._bucket.put_if(name, b"stale", first) if first else None
        finally:
            with suppress(OSError):
                self._bucket.delete(name)
        if found is not None:
            self._now, self._looked = found.modified.timestamp(), time.monotonic()
        self.conditional = first is not None and again is None and matched is not None and stale is None
        self.notes = () if self.conditional else (UNCONDITIONAL.format(uri=self._uri),)
        return self.conditional

    def read(self) -> Seen | None:
        held = self._bucket.get(self._name)
        if held is None:
            return None
        record = Record.from_json(held.data)
        return Seen(record, record.fence if record else 0, held)

    def age(self, seen: Seen) -> float:
        if math.isnan(self._now):
            self.prove()
        assert isinstance(seen.stamp, Held)
        now = self._now + time.monotonic() - self._looked
        return max(0.0, now - seen.stamp.modified.timestamp())

    def take(self, record: Record, after: Seen | None) -> bool:
        if math.isnan(self._now):
            self.prove()
        if self.conditional:
            known = after.stamp.tag if after and isinstance(after.stamp, Held) else None
            self._tag = self._bucket.put_if(self._name, record.to_json(), known)
            return self._tag is not None
        self._tag = self._bucket.put(self._name, record.to_json())
        time.sleep(SETTLE_SECONDS)
        return self.renew(record)

    def renew(self, record: Record) -> bool:
        if not self.conditional:
            mine = self.is_mine(record)
            if mine:
                self._bucket.put(self._name, record.to_json())
            return mine
        tag = self._bucket.put_if(self._name, record.to_json(), self._tag)
        if tag is None and record.ended and (found := self._mine(record)):  # a heartbeat's answer was lost on its way
            tag = self._bucket.put_if(self._name, record.to_json(), found.tag)
        self._tag = tag or self._tag
        return tag is not None

    def is_mine(self, record: Record) -> bool:
        return self._mine(record) is not None

    def _mine(self, record: Record) -> Held | None:
        held = self._bucket.get(self._name)
        found = Record.from_json(held.data) if held else None
        return held if found is not None and found.holder == record.holder else None


class FilePlace:
    """A file `<table>.lease-<fence>` of its own for each holder; the one with the highest number is the lease.

    A new one is made with link(2), which succeeds once on every file system, NFS and Lustre too, and the older ones are
    then removed. A holder opens its own file to see whether it still has the lease, which makes an NFS client ask the
    server. It never makes that file again, so that it cannot come back to life.
    """

    local = True
    notes: tuple[str, ...] = ()

    def __init__(self, folder: Path, table: str) -> None:
        self._folder, self._prefix = folder, f"{table}.lease-"

    def read(self) -> Seen | None:
        for number in reversed(self._numbers()):
            try:
                with self._path(number).open("rb") as file:
                    data, modified = file.read(), os.fstat(file.fileno()).st_mtime_ns
            except FileNotFoundError:  # removed by the next holder since
                continue
            return Seen(Record.from_json(data), number, (modified, data))
        return None

    def age(self, seen: Seen) -> float:
        assert isinstance(seen.stamp, tuple)
        modified: int = seen.stamp[0]
        return max(0.0, self._now() - modified / 1e9)

    def take(self, record: Record, after: Seen | None) -> bool:
        known = self._numbers()
        if known[-1:] != ([after.fence] if after else []):
            return False
        path = self._path(record.fence)
        if not self._made(path, record.to_json().ljust(RECORD_BYTES)):
            return False
        if self._numbers()[-1:] != [record.fence]:  # others came and went since `after` was read
            path.unlink(missing_ok=True)
            return False
        for number in known:
            self._path(number).unlink(missing_ok=True)
        return True

    def renew(self, record: Record) -> bool:
        try:
            file = os.open(self._path(record.fence), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            return False
        try:
            if record.ended:
                os.pwrite(file, record.to_json().ljust(RECORD_BYTES), 0)
            os.utime(file)
        finally:
            os.close(file)
        return True

    def is_mine(self, record: Record) -> bool:
        try:
            found = Record.from_json(self._path(record.fence).read_bytes())
        except FileNotFoundError:
            return False
        return found is not None and found.holder == record.holder

    def _made(self, path: Path, data: bytes) -> bool:
        """Whether this call made the file: with its content where the file system has hard links."""
        partial = self._temporary()
        try:
            with partial.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            try:
                path.hardlink_to(partial)
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
                    raise
                with path.open("xb") as file:
                    file.write(data)
        except FileExistsError:
            return False
        finally:
            partial.unlink(missing_ok=True)
        return True

    def _now(self) -> float:
        """The time by the clock of the file system's server."""
        partial = self._temporary()
        try:
            partial.touch(exist_ok=False)
            return partial.stat().st_mtime
        finally:
            partial.unlink(missing_ok=True)

    def _temporary(self) -> Path:
        return self._folder / f".{self._prefix}{secrets.token_hex(6)}"

    def _path(self, number: int) -> Path:
        return self._folder / f"{self._prefix}{number}"

    def _numbers(self) -> list[int]:
        """The numbers of the files there are, ascending."""
        names = (path.name.removeprefix(self._prefix) for path in self._folder.glob(f"{self._prefix}*"))
        return sorted(int(name) for name in names if name.isdecimal() and name.isascii())
