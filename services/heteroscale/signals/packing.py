"""Numbers out of Python objects into arrays, at C speed.

MessagePack is used as a stepping stone: msgspec writes numbers one after the other, each eight bytes behind a tag of one, and numpy
reads such bytes as they lie. That takes a third of the time of asking each object for its value. Columns in which some values are
absent, or small integers, have no such stride; they take the slow way and come out the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

_pack = msgspec.msgpack.Encoder().encode
_SHORT: Final = 16  # lists of fewer entries have a head of one byte
_LONG: Final = 2**16  # lists of fewer entries than this have one of three
FLOATS: Final = ">f8"
WHOLE: Final = ">u8"  # integers below 2^64


def pack_columns(columns: Sequence[Sequence[float | int | None]], into: NDArray[np.float64], kind: str) -> None:
    """Write columns of figures, all of one length and one kind, into `into` [columns, length]. An absent figure becomes NaN."""
    count = len(columns[0])
    there = [number for number, column in enumerate(columns) if column[0] is not None]
    if not _pack_alike([columns[number] for number in there], into, there, kind):
        for target, column in zip(into, columns, strict=True):
            target[:] = np.fromiter(column, dtype=np.float64, count=count)
        return
    for number in range(len(columns)):
        if number not in there:
            into[number] = np.nan if columns[number].count(None) == count else np.fromiter(columns[number], dtype=np.float64, count=count)


def pack_lists(lists: Sequence[Sequence[float]], into: NDArray[np.float64]) -> None:
    """Write lists of floats, all of one length, into `into` [lists, length]."""
    into[:] = _unpacked(_pack(lists), len(lists), into.shape[1], FLOATS)


def grown(array: NDArray[Any], room: int) -> NDArray[Any]:
    """The same with room for more along the last axis."""
    grown = np.empty((*array.shape[:-1], room), dtype=array.dtype)
    grown[..., : array.shape[-1]] = array
    return grown


def _pack_alike(columns: list[Sequence[float | int | None]], into: NDArray[np.float64], places: list[int], kind: str) -> bool:
    """Whether every figure of these columns takes nine bytes: only then they are written to their places."""
    packed = _pack(columns)
    if not columns or len(packed) != _head(len(columns)) + len(columns) * _row(len(columns[0]), kind).itemsize:
        return False
    into[places] = _unpacked(packed, len(columns), len(columns[0]), kind)
    return True


def _unpacked(packed: bytes, lists: int, length: int, kind: str) -> NDArray[Any]:
    """Packed lists of one length as they lie: [lists, length]."""
    values: NDArray[Any] = np.frombuffer(packed, dtype=_row(length, kind), offset=_head(lists))["figures"]["value"]
    return values


@lru_cache(maxsize=4_096)
def _row(length: int, kind: str) -> np.dtype[np.void]:
    """A packed list of this length."""
    return np.dtype([("head", f"V{_head(length)}"), ("figures", [("tag", "u1"), ("value", kind)], (length,))])


def _head(entries: int) -> int:
    """Bytes before the first entry of a packed list."""
    return 1 if entries < _SHORT else 3 if entries < _LONG else 5
