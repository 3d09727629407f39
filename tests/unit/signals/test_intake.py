"""Rows and faces are given once, kept apart, and given again after they were freed."""

from __future__ import annotations

import json

from heteroscale.signals import wire
from heteroscale.signals.directory import Directory, Face
from heteroscale.signals.intake import Arrival, Intake
from heteroscale.signals.series import Ints
from support.telemetry_lines import ms, record, sample


def _seats(directory: Directory, names: list[str], states: list[str]) -> Ints:
    count = len(names)
    return directory.seats([count], names, ["decode"] * count, ["H20"] * count, [8] * count, states)


def test_one_row_an_instance_whatever_it_says_of_itself() -> None:
    """A change of state is another face on the same row; a face is shared by all that show it."""
    directory = Directory()
    seats = _seats(directory, ["a", "b", "a", "a"], ["serving", "serving", "draining", "serving"])
    rows, faces = directory.look_up(seats)
    assert [0, 1, 0, 0] == rows.tolist()
    assert [0, 0, 1, 0] == faces.tolist()
    assert [Face("decode", "H20", 8, "serving"), Face("decode", "H20", 8, "draining")] == directory.faces


def test_freed_row_is_another_instances_and_nothing_of_the_old_one_is_left() -> None:
    """Thousands that come and go never use more rows than were there at once, and each finds its own."""
    directory = Directory()
    for generation in range(50):
        names = [f"{generation}-{k}" for k in range(40)]
        rows, _ = directory.look_up(_seats(directory, sorted([*names, *names]), ["serving", "draining"] * len(names)))
        assert set(range(40)) == set(rows.tolist())
        assert sorted(names) == [directory.name(row) for row in rows.tolist()[::2]]
        directory.free(sorted(set(rows.tolist())))
    assert 40 == directory.rows_used
    assert {} == directory.row_of


def test_names_in_an_order_heard_before_are_given_what_they_are_now() -> None:
    """The same names as before, then with another state, in another order, some of them only, and after all were freed: rows by name."""
    directory = Directory()
    names = list("abcdefghijkl")
    serving = ["serving"] * len(names)
    for names_now, states in (
        (names, serving), (names, serving), (names, [*serving[1:], "draining"]), (["a", *names[:0:-1]], serving),
        (names[:9], serving[:9]), (names, serving), (["a"], ["serving"]), (names, serving),
    ):  # fmt: skip
        rows, faces = directory.look_up(_seats(directory, names_now, states))
        assert [names.index(name) for name in names_now] == rows.tolist()
        assert states == [directory.faces[face].state for face in faces.tolist()]
    directory.free([0])
    rows, _ = directory.look_up(_seats(directory, ["z"], ["serving"]))
    assert [0] == rows.tolist()
    rows, _ = directory.look_up(_seats(directory, names, serving))
    assert [len(names), *range(1, len(names))] == rows.tolist()


def test_surge_does_not_hold_its_memory() -> None:
    """Buffers that grew for tens of thousands of samples are given back when a hop brings few again; the figures stay right."""
    intake = Intake(Directory())

    def add(samples: int) -> None:
        edges, counts = [0.1, 1.0], [1, 2, 3]
        of_one = [sample(f"i{k}", k, generation_tokens=k, ttft={"layout": "l", "counts": counts}) for k in range(samples)]
        batch = wire.read(json.dumps(record(*of_one, layouts={"l": edges})).encode())
        assert isinstance(batch, wire.Batch)
        intake.add(batch, Arrival(7, float("-inf"), b""))

    add(20_000)
    surge = intake.take()
    held = intake.bytes_held
    add(30)
    few = intake.take()
    assert surge is not None
    assert few is not None
    assert list(range(20_000)) == surge.rows.tolist()
    assert [ms(k) for k in range(30)] == few.figures[0].tolist()
    assert [[1.0, 2.0, 3.0]] * 30 == few.buckets[0].counts.tolist()
    assert intake.bytes_held < held / 20
