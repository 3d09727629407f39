"""Rows for instances, and numbers for what they say of themselves besides figures. Knows nothing of samples' figures or of time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

from heteroscale.contracts.names import GpuTypeName, InstanceName, RoleName
from heteroscale.signals.packing import grown
from heteroscale.signals.series import Ints

_Heard: TypeAlias = tuple[list[list[Any]], list[int]]  # identities as columns, and their seats
_HEARD_MIN: Final = 8  # samples a record; of fewer the identities are quicker looked up
_HEARD_MAX: Final = 2  # identities remembered in their order, for each seat
_NOTHING_HEARD: Final[_Heard] = ([], [])
Identity: TypeAlias = tuple[InstanceName, RoleName, GpuTypeName | None, int | None, str]  # a name and a face


class Face(NamedTuple):
    """What a sample says of its instance besides figures."""

    role: RoleName
    gpu_type: GpuTypeName | None
    gpus: int | None
    state: str  # an EngineState's value


class Directory:
    """Rows of instances and numbers of faces, given as they appear.

    What a sample says of its identity is looked up as a whole: such an identity has a seat, and a seat has a row and a face.
    """

    def __init__(self) -> None:
        self.faces: list[Face] = []
        self.row_of: dict[InstanceName, int] = {}
        self._seat_of: dict[Identity, int] = {}
        self._identities_of: dict[int, list[Identity]] = {}  # by row
        self._row_of_seat = np.zeros(16, dtype=np.int64)
        self._face_of_seat = np.zeros(16, dtype=np.int64)
        self._free_rows: list[int] = []
        self._free_seats: list[int] = []
        self._face_of: dict[Face, int] = {}
        self._heard: dict[InstanceName, _Heard] = {}  # by first name: identities and their seats
        self._heard_count = 0  # identities in it

    @property
    def rows_used(self) -> int:
        """Rows below this number are, or were, given to an instance."""
        return len(self.row_of) + len(self._free_rows)

    def seats(self, lengths: list[int], *identities: list[Any]) -> Ints:
        """The seat of each sample's identity. `lengths`: of the records they came in; `identities`: names, and the columns of a Face."""
        count = len(identities[0])
        if count < _HEARD_MIN * len(lengths):
            return np.fromiter(self._looked_up(identities), dtype=np.int64, count=count)
        seats: list[int] = []
        for length in lengths:
            begin = len(seats)
            seats += self._seats_of_record([column[begin : begin + length] for column in identities])
        return np.fromiter(seats, dtype=np.int64, count=count)

    def look_up(self, seats: Ints) -> tuple[Ints, Ints]:
        """The row and the number of the face of each seat."""
        return self._row_of_seat.take(seats), self._face_of_seat.take(seats)

    def name(self, row: int) -> InstanceName:
        """The instance that has a row."""
        return self._identities_of[row][0][0]

    def free(self, rows: list[int]) -> None:
        """These rows' instances are forgotten."""
        self._heard, self._heard_count = {}, 0
        for row in rows:
            del self.row_of[self.name(row)]
            self._free_rows.append(row)
            self._free_seats += [self._seat_of.pop(identity) for identity in self._identities_of.pop(row)]

    def _seats_of_record(self, identities: list[list[Any]]) -> list[int]:
        """The same of one record.

        Publishers name the same instances in the same order again and again. So the columns are compared with those that began with
        the same name before, which takes a third of the time of looking up one identity after the other.
        """
        begin = identities[0][0]
        columns, seats = self._heard.get(begin, _NOTHING_HEARD)
        if columns == identities:
            return seats
        self._heard_count += len(identities[0]) - len(seats)
        if self._heard_count > _HEARD_MAX * (len(self._seat_of) + len(identities[0])):
            self._heard, self._heard_count = {}, len(identities[0])
        seats = self._looked_up(identities)
        self._heard[begin] = identities, seats
        return seats

    def _looked_up(self, identities: Sequence[list[Any]]) -> list[int]:
        try:
            return list(map(self._seat_of.__getitem__, zip(*identities, strict=True)))
        except KeyError:
            return list(map(self._seat, zip(*identities, strict=True)))

    def _seat(self, identity: Identity) -> int:
        seat = self._seat_of.get(identity)
        if seat is None:
            seat = self._free_seats.pop() if self._free_seats else len(self._seat_of)
            if seat == len(self._row_of_seat):
                self._row_of_seat = grown(self._row_of_seat, 2 * seat)
                self._face_of_seat = grown(self._face_of_seat, 2 * seat)
            row, number = self._row(identity[0]), self._face(Face(*identity[1:]))
            self._row_of_seat[seat], self._face_of_seat[seat] = row, number
            kept = (identity[0], *self.faces[number])  # strings that many instances share stay in the cache
            self._seat_of[kept] = seat
            self._identities_of.setdefault(row, []).append(kept)
        return seat

    def _row(self, name: InstanceName) -> int:
        row = self.row_of.get(name)
        if row is None:
            row = self.row_of[name] = self._free_rows.pop() if self._free_rows else len(self.row_of)
        return row

    def _face(self, face: Face) -> int:
        number = self._face_of.get(face)
        if number is None:
            number = self._face_of[face] = len(self.faces)
            self.faces.append(face)
        return number
