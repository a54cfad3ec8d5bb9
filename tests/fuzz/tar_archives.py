"""Tar archives of every form, header by header, whole and damaged."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import posixpath
import random
from collections.abc import Iterator

from tests.archives import png
from tests.mutations import mutated

BLOCK = 512
KEYS = ("a", "b", "c", "d/a", "d/e/b", "Ünï", "1.2.840.1", "1.2.840.12", "x" * 90, "n" * 60 + "/" + "m" * 80, "z " * 70)
HELD = {"v7": 8, "ustar": 10, "gnu": 11, "pax": 11}  # form: how many of these names it can hold
SUFFIXES = ("png",) * 6 + ("json",) * 3 + ("txt", "cls", "bin", "jpg", "PNG")
IMAGES = ("png", "jpg", "PNG")
FORMS = ("ustar", "gnu", "pax", "v7")
SPARSE_ENTRIES = 4  # in an old GNU header
REAL = [png(seed, 8) for seed in range(12)]


def tar_archives(count: int, seed: int) -> Iterator[bytes]:
    """Two thirds of them whole; the others cut, with bytes after their end, or with damaged bytes."""
    for number in range(count):
        rng = random.Random(f"tars-{seed}-{number}")
        data = _archive(rng)
        act = rng.random()
        if act > 0.85:
            _, data = next(iter(mutated([data], 1, rng.randrange(2**32))))
        elif act > 0.7:
            data = data[: rng.randrange(len(data) + 1)]
        yield _packed(data, rng)


def _packed(data: bytes, rng: random.Random) -> bytes:
    act = rng.random()
    if act < 0.7:
        return data
    if act < 0.8:
        return gzip.compress(data, 1, mtime=0)
    if act < 0.9:  # a file of several members, RFC 1952
        at = rng.randrange(len(data) + 1)
        return gzip.compress(data[:at], 1, mtime=0) + gzip.compress(data[at:], 1, mtime=0)
    return rng.choice((bz2.compress, functools.partial(lzma.compress, preset=0)))(data)


def _archive(rng: random.Random) -> bytes:
    form = rng.choice(FORMS)
    out = io.BytesIO()
    if form == "pax" and rng.random() < 0.2:
        out.write(_pax({"comment": "of all"}, b"g"))
    written: list[str] = []
    for key in rng.choices(KEYS[: HELD[form]], k=rng.choice((0, 1, 3, 6, 12))):
        for suffix in rng.choices(SUFFIXES, k=rng.choice((1, 1, 2, 3))):
            name = f"{key}.{suffix}" if rng.random() < 0.9 else f"./{key}.{suffix}"
            out.write(_written(form, name, written, rng))
            written.append(name)
    ending = rng.random()
    if ending < 0.9:
        out.write(bytes(2 * BLOCK))
        out.write(bytes(-out.tell() % (20 * BLOCK)) if rng.random() < 0.5 else b"")
    elif ending < 0.95:
        out.write(bytes(BLOCK))  # one block of zeros only
    if ending < 0.05:
        out.write(rng.randbytes(700))  # what stands after the end is no part of the archive
    return out.getvalue()


def _written(form: str, name: str, written: list[str], rng: random.Random) -> bytes:
    """A member: most are files; some are links, folders, pipes or files with holes."""
    act = rng.random()
    if act < 0.08 and written:
        target = rng.choice(written) if rng.random() < 0.8 else "none.png"
        return _member(form, name, b"", rng, kind=b"1", link=target)
    if act < 0.16 and written:
        target = rng.choice(written) if rng.random() < 0.8 else "../none.png"
        link = posixpath.relpath(target, posixpath.dirname(name) or ".") if rng.random() < 0.9 else target
        return _member(form, name, b"", rng, kind=b"2", link=link)
    if act < 0.2:
        return _member(form, name, b"", rng, kind=rng.choice((b"5", b"6", b"3")))
    content = _content(name.rpartition(".")[2], rng)
    if act < 0.3 and form in ("gnu", "pax"):
        return _sparse(form, name, content, rng)
    return _member(form, name, content, rng)


def _content(suffix: str, rng: random.Random) -> bytes:
    if suffix == "json":
        return rng.choice((b'{"n": %d}' % rng.randrange(99), b'{"m": "x"}', b"[1]", b"{", b""))
    if suffix in IMAGES:
        return rng.choice((*REAL, b"", rng.randbytes(BLOCK)))
    return rng.choice((b"7", b"some text", b"", b"\xff\xfe"))


def _member(form: str, name: str, data: bytes, rng: random.Random, kind: bytes = b"0", link: str = "") -> bytes:
    """Headers and data. Names too long for the form's own field go where the form has them."""
    raw, target = name.encode(), link.encode()
    before, prefix = b"", b""
    records: dict[str, str] = {}
    if len(raw) > 100 and form == "ustar" and b"/" in raw and len(raw.rpartition(b"/")[2]) <= 100:
        prefix, _, raw = raw.rpartition(b"/")
    if form == "gnu":
        before = _gnu_long(b"L", raw) + _gnu_long(b"K", target)
    if form == "pax":
        records |= {"path": name} if len(raw) > 100 or rng.random() < 0.2 else {}
        records |= {"linkpath": link} if len(target) > 100 else {}
        records |= {"size": str(len(data))} if rng.random() < 0.1 else {}
        before = _pax(records, b"x") if records else b""
    if kind == b"0" and form == "v7":
        kind = b"\0"
    return before + _header(form, raw[:100], len(data), kind, target[:100], prefix, rng) + _padded(data)


def _header(
    form: str, name: bytes, nbytes: int, kind: bytes, link: bytes, prefix: bytes, rng: random.Random, tail: bytes = b""
) -> bytes:
    size = b"%011o\0" % nbytes
    if form == "gnu" and rng.random() < 0.2:
        size = b"\x80" + nbytes.to_bytes(11, "big")
    magic = {"ustar": b"ustar\00000", "pax": b"ustar\00000", "gnu": b"ustar  \0", "v7": b""}[form]
    block = bytearray(BLOCK)
    fields = (
        (0, name), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, size), (136, b"%011o\0" % 0),
        (148, b" " * 8), (156, kind), (157, link), (257, magic), (345, prefix or tail),
    )  # fmt: skip
    for at, value in fields:
        block[at : at + len(value)] = value
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def _gnu_long(kind: bytes, text: bytes) -> bytes:
    if len(text) <= 100:
        return b""
    return _header("gnu", b"././@LongLink", len(text) + 1, kind, b"", b"", random.Random(0)) + _padded(text + b"\0")


def _pax(records: dict[str, str], kind: bytes) -> bytes:
    body = b""
    for word, value in records.items():
        rest = f" {word}={value}\n".encode()
        length = len(rest) + 1
        while len(str(length)) + len(rest) != length:
            length += 1
        body += str(length).encode() + rest
    return _header("pax", b"PaxHeaders/x", len(body), kind, b"", b"", random.Random(0)) + _padded(body)


def _sparse(form: str, name: str, content: bytes, rng: random.Random) -> bytes:
    """A file with holes: GNU's old form, or the forms 0.1 and 1.0 of pax."""
    pieces = []
    end = 0
    for at in sorted(rng.sample(range(0, len(content) + 1, BLOCK), k=min(2, len(content) // BLOCK + 1))):
        pieces.append((at, content[at : at + BLOCK]))
        end = at
    size = max(len(content), end) + rng.choice((0, 300))
    stored = b"".join(piece for _, piece in pieces)
    pieces.append((size, b""))
    if form == "gnu":
        table = b"".join(b"%011o\0%011o\0" % (at, len(piece)) for at, piece in pieces[:SPARSE_ENTRIES])
        tail = bytes(41) + table.ljust(24 * SPARSE_ENTRIES, b"\0") + b"\0" + b"%011o\0" % size
        long = _gnu_long(b"L", name.encode())
        return long + _header("gnu", name.encode()[:100], len(stored), b"S", b"", b"", rng, tail) + _padded(stored)
    numbers = [str(n) for at, piece in pieces for n in (at, len(piece))]
    if rng.random() < 0.5:
        records = {"GNU.sparse.size": str(size), "GNU.sparse.numblocks": str(len(pieces)), "GNU.sparse.name": name,
                   "GNU.sparse.map": ",".join(numbers)}  # fmt: skip
        return (
            _pax(records, b"x")
            + _header("pax", b"GNUSparseFile.0/x", len(stored), b"0", b"", b"", rng)
            + _padded(stored)
        )
    listed = _padded("".join(f"{n}\n" for n in (len(pieces), *numbers)).encode())
    records = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": name,
        "GNU.sparse.realsize": str(size),
    }
    body = listed + stored
    return _pax(records, b"x") + _header("pax", b"GNUSparseFile.0/x", len(body), b"0", b"", b"", rng) + _padded(body)
