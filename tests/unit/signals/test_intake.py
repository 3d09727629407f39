"""Rows and faces are given once, kept apart, and given again after they were freed."""

from __future__ import annotations

from heteroscale.signals.intake import Directory, Face
from heteroscale.signals.series import Ints


def _seats(directory: Directory, names: list[str], states: list[str]) -> Ints:
    count = len(names)
    return directory.seats(names, ["decode"] * count, ["H20"] * count, [8] * count, states)


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
