"""Writes results as JSON files and reads them back into records."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexer.disk import read_small
from indexer.errors import ProbeError
from indexer.jsonable import jsonable
from probes.runs.result import FORMATS, ProbeResult

if TYPE_CHECKING:
    from probes.runs.compare import Comparison


MOST_BYTES = 1 << 30  # of a result: curves and classes of the largest are far smaller
RESULT, COMPARISON = "result.json", "comparison.json"


def write_result(result: ProbeResult | Comparison, path: Path) -> None:
    path.write_text(json.dumps(jsonable(result), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def read_result(path: Path) -> ProbeResult:
    """Read a result. Raises ProbeError for a file that is not a probe result of a known format."""
    result: ProbeResult = _read(ProbeResult, path / RESULT if path.is_dir() else path)
    return result


def read_comparison(path: Path) -> Comparison:
    """Read a comparison. Raises ProbeError for a file that is not a comparison of a known format."""
    from probes.runs.compare import Comparison

    result: Comparison = _read(Comparison, path / COMPARISON if path.is_dir() else path)
    return result


def is_comparison(path: Path) -> bool:
    """Whether the folder or file holds a comparison."""
    return path.name == COMPARISON or (path.is_dir() and (path / COMPARISON).exists() and not (path / RESULT).exists())


def check_format(found: int, path: Path) -> None:
    """Raise ProbeError for a result or bundle of an unknown format."""
    if found not in FORMATS:
        raise ProbeError(
            f"{path} has format {found}, this version reads {' and '.join(map(str, FORMATS))}. Upgrade "
            "embedding-indexer, or make the result again."
        )


def _read(kind: Any, path: Path) -> Any:
    try:
        value = json.loads(read_small(path, MOST_BYTES))
        if not isinstance(value, dict) or not isinstance(value.get("format"), int):
            raise ProbeError(f"{path} is not a probe result. Name the {RESULT} of a probe's --out.")
        check_format(value["format"], path)
        return decode(kind, value)
    except FileNotFoundError as error:
        raise ProbeError(f"no file {path}. Name the {RESULT} of a probe's --out.") from error
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
        raise ProbeError(f"{path} is not a probe result ({error}). Name the {RESULT} of a probe's --out.") from error


def decode(kind: Any, value: Any) -> Any:
    """The inverse of `jsonable` for records; null becomes NaN in a float field. Raises TypeError for other values."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else decode(next(k for k in inside if k is not type(None)), value)
    if (dataclasses.is_dataclass(kind) or origin is dict) and not isinstance(value, dict):
        raise TypeError(f"{str(value)[:40]!r} is no record")
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        hints = typing.get_type_hints(kind)
        unknown = set(value) - set(hints)
        if unknown:
            raise TypeError(f"unknown field {sorted(unknown)[0]}")
        return kind(**{name: decode(hints[name], v) for name, v in value.items()})
    if origin is tuple:
        if len(inside) == 2 and inside[1] is Ellipsis:
            return tuple(decode(inside[0], v) for v in value)
        return tuple(decode(k, v) for k, v in zip(inside, value, strict=True))
    if origin is dict:
        return {k: decode(inside[1], v) for k, v in value.items()}
    if kind is float:
        return float("nan") if value is None else _typed(float, value)
    return _typed(kind, value) if kind in (str, int, bool) else value


def _typed(kind: type, value: Any) -> Any:
    """The value of a field of this type. Raises TypeError for another: a page must not show text as a number."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    fits = whole or isinstance(value, float) if kind is float else whole if kind is int else isinstance(value, kind)
    if not fits:
        raise TypeError(f"{str(value)[:40]!r} is no {kind.__name__}")
    return kind(value)
