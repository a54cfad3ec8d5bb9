"""Seeded damage to JSON, SQL and names. (`tests.mutations` damages bytes.) The same seed gives the same inputs."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from typing import Any

from tests.mutations import mutated

VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63) - 1, 10**400, 1.5, -0.0, 1e308, float("nan"), float("inf"),
    "", "x", "a" * 40_000, "\0", "\ud800", "é", "../../../etc/passwd", "/etc/passwd", "key", "vector", [], [[]],
    {}, {"a": 1}, [1, "a", None], "1", "true", "' OR 1=1 --", "😀", "2024-01-01",
)  # fmt: skip
NAMES = (
    "", "key", "vector", "_rowid", "shard", "a b", "a.b", "x" * 300, "meta", "\ud83d", "é", "A", "a", "sex", "..",
    "\0",
)  # fmt: skip
SQL = (
    "sex", "age", "n", "key", "vector", "meta", "missing", "`sex`", '"sex"', "'F'", "'", '"', "=", "<>", "<", "!=",
    "IN", "(", ")", "(", ")", ",", "AND", "OR", "NOT", "LIKE", "'%a_'", "IS NULL", "BETWEEN", "60", "1e400", "-1",
    "0x10", "NULL", "true", "CAST(n AS", "date '2024-01-01'", "interval '1 day'", "lower(sex)", "length(key)",
    "random()", "uuid()", "1/0", "%", "n % 0", "[1,2]", "vector[0]", "{", "}", "--", "/*", "*/", ";",
    "DROP TABLE t", "SELECT", "UNION", "*", "EXISTS (SELECT 1)", "\0", "é", "😀", "$1", "?", "_rowid",
    "array_has(vector, 1)", "regexp_match(key, '(a+)+b')", "regexp_like(key, '((a*)*)*$')",
    "repeat(key, 1000000000)", "lpad(key, 2000000000, 'x')", "CASE WHEN n > 0 THEN 1 ELSE 0 END", "X'00'", "::int",
    "@@x", "arrow_cast(n, 'Utf8')", "to_timestamp(key)", "nullif(n, n)", "coalesce()", "sex sex", "= =", "\\",
    "\n", "\t",
)  # fmt: skip
PIECES = (
    "..", "/", "\\", ".", "a", "im", "é", "\0", "\n", " ", "~", "$HOME", "%2e", "con", ".json", ".png", ".tar",
    "-", "x" * 120, "\ud800", "😀", "\u202e", "#1", "'", '"', ";", "|", "`id`", "/etc/passwd", "C:", ".nii.gz",
    "1.2.840", "é".encode().decode("latin-1"),
)  # fmt: skip


BLOCK = 512
FIELDS = {  # of a tar header: (offset, length)
    "name": (0, 100), "mode": (100, 8), "size": (124, 12), "mtime": (136, 12), "type": (156, 1), "link": (157, 100),
    "magic": (257, 8), "prefix": (345, 155),
}  # fmt: skip
NUMBERS = (0, 1, 511, 513, 2**20, 2**33 - 1, 2**62, 2**95)  # of bytes


def tar_mutated(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Half of them damaged bytes, half archives whose headers say strange things under a right checksum."""
    plain = [data for data in seeds if data[257:262] == b"ustar"]
    for number, data in mutated(seeds, count, seed):
        rng = random.Random(f"tar-{seed}-{number}")
        if rng.random() < 0.5:
            yield data
            continue
        archive = bytearray(rng.choice(plain))
        headers = [at for at in range(0, len(archive), BLOCK) if archive[at + 257 : at + 262] == b"ustar"]
        for at in rng.choices(headers, k=rng.choice((1, 1, 2, 4))):
            _rewrite(archive, at, rng)
        if rng.random() < 0.2:
            del archive[rng.randrange(len(archive)) :]
        yield bytes(archive)


def _rewrite(archive: bytearray, at: int, rng: random.Random) -> None:
    """One field of the header at `at`, and its checksum."""
    name = rng.choice(list(FIELDS))
    offset, length = FIELDS[name]
    if name in ("size", "mtime", "mode"):
        n = rng.choice(NUMBERS)
        octal = b"%0*o" % (length - 1, n)
        base_256 = b"\x80" + (n % 256 ** (length - 1)).to_bytes(length - 1, "big")
        value = rng.choice((octal[-length + 1 :], base_256, b"-0000000001", rng.randbytes(length)))
    elif name == "type":
        value = rng.choice((b"0", b"1", b"2", b"3", b"5", b"6", b"7", b"x", b"g", b"L", b"K", b"S", b"\0", b"?"))
    else:
        words = "".join(rng.choices(PIECES, k=rng.randrange(1, 6))).encode("utf-8", "surrogatepass")
        value = rng.choice((words, rng.randbytes(length), b""))
    archive[at + offset : at + offset + length] = value[:length].ljust(length, b"\0")
    archive[at + 148 : at + 156] = b" " * 8
    archive[at + 148 : at + 156] = b"%06o\0 " % sum(archive[at : at + BLOCK])


def json_mutated(seeds: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Half of them documents with strange values, half damaged bytes."""
    for number, data in mutated(seeds, count, seed):
        rng = random.Random(f"json-{seed}-{number}")
        if rng.random() < 0.5:
            yield data
            continue
        document = json.loads(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 2, 5))):
            document = _changed(document, rng)
        yield json.dumps(document, ensure_ascii=rng.random() < 0.7).encode("utf-8", "surrogatepass")


def _changed(document: Any, rng: random.Random) -> Any:
    if isinstance(document, dict) and document and rng.random() < 0.9:
        name = rng.choice(list(document))
        act = rng.random()
        if act < 0.15:
            return {k: v for k, v in document.items() if k != name}
        if act < 0.3:
            return {**document, rng.choice(NAMES): rng.choice(VALUES)}
        return {**document, name: _changed(document[name], rng)}
    if isinstance(document, list) and document and rng.random() < 0.8:
        at = rng.randrange(len(document))
        return [*document[:at], _changed(document[at], rng), *document[at + 1 :]]
    return rng.choice(VALUES)


def sql(count: int, seed: int) -> Iterator[bytes]:
    """Filters that are right, filters with one strange word in them, and words in any order."""
    for number in range(count):
        rng = random.Random(f"sql-{seed}-{number}")
        kind = rng.random()
        words = _filter(rng, 3).split(" ") if kind < 0.7 else rng.choices(SQL, k=rng.randrange(1, 14))
        if 0.2 < kind < 0.7:
            words.insert(rng.randrange(len(words) + 1), rng.choice(SQL))
        if rng.random() < 0.05:
            words = [rng.choice(("(", "NOT"))] * rng.choice((50, 3000)) + words
        yield " ".join(words).encode("utf-8", "surrogatepass")


def _filter(rng: random.Random, depth: int) -> str:
    if depth and rng.random() < 0.6:
        a, b = _filter(rng, depth - 1), _filter(rng, depth - 1)
        return rng.choice((f"{a} AND {b}", f"{a} OR {b}", f"NOT ({a})", f"( {a} )"))
    number, text = rng.choice(("age", "n")), rng.choice(("sex", "key", "meta"))
    atoms = (
        f"{number} {rng.choice(('<', '>', '=', '<>', '>='))} {rng.choice((0, 7, 25.5, -1, 10**20))}",
        f"{number} BETWEEN 3 AND 30", f"{number} IN (1, 2, 40)", f"{text} = 'F'", f"{text} LIKE 'k1%'",
        f"{text} IS NOT NULL", f"length({text}) > 2", f"{number} * 2 - 1 > 10",
        f"{text} <> 'it''s; -- no'", f"lower({text}) = 'f'",
    )  # fmt: skip
    return rng.choice(atoms)


def names(count: int, seed: int) -> Iterator[bytes]:
    """Member names: ways out of a folder, scripts, bytes that are no text."""
    for number in range(count):
        rng = random.Random(f"names-{seed}-{number}")
        name = "".join(rng.choices(PIECES, k=rng.randrange(1, 7))).encode("utf-8", "surrogatepass")
        if rng.random() < 0.2:
            name += rng.randbytes(rng.randrange(6))
        yield name + rng.choice((b"", b".png", b".png", b".jpg", b".dcm", b".json"))
