"""The judge of histories is not blind: each kind of wrong that it is there for is found, and a sound history passes."""

from __future__ import annotations

import msgspec
import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.placements import Placement
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from support import history
from support.gangs import Proposer, node
from support.placement_driver import Driver, command

GPUS = {"n1": 8, "n2": 8, "n3": 8}


def applied(rev: int) -> Outcome:
    """An answer."""
    return Outcome(verdict=Verdict.APPLIED, rev=rev, entry=f"0-{rev}")


def gangs() -> tuple[Gang, Gang, Gang]:
    """One takes a node, one gives it back, a third takes it."""
    one, other = Proposer("default", 1, service="a"), Proposer("default", 1, service="b")
    first = one.gang({"i1": {"n1": 8}})
    one.seq = 1
    return first, one.gang(drops=[("i1", first.puts["i1"])]), other.gang({"i2": {"n1": 8}})


def test_a_sound_history_of_gangs_passes() -> None:
    """In the order of rev, whatever the order in which answers came; refused gangs own nothing; an answer may come twice."""
    takes, gives, again = gangs()
    refused = (again, Outcome(verdict=Verdict.CONFLICT, node="n1"))
    assert [] == history.of_gangs([(again, applied(3)), refused, (takes, applied(1)), (takes, applied(1)), (gives, applied(2))], GPUS)


@pytest.mark.parametrize(
    ("revs", "word"),
    [((1, 3, 2), "n1 gives 16 of 8 GPUs at rev 2"), ((1, 2, 2), "rev 2 was given twice")],
    ids=["overlap", "rev-repeats"],
)
def test_gangs_that_overlap_or_share_a_number_are_found(revs: tuple[int, int, int], word: str) -> None:
    """NO-OVERLAP, and rev grows."""
    assert word in history.of_gangs([(gang, applied(rev)) for gang, rev in zip(gangs(), revs, strict=True)], GPUS)


def test_one_gang_with_two_answers_is_found() -> None:
    """ONCE."""
    takes, _, _ = gangs()
    (wrong,) = history.of_gangs([(takes, applied(1)), (takes, applied(2))], GPUS | {"n1": 16})
    assert "was applied at 1 and at 2" in wrong


def written() -> list[Placement]:
    """A service's records from birth on."""
    driver = Driver(*(node(name) for name in GPUS))
    driver.cycle(command())
    driver.cycle(command(after_ms=1))
    return driver.written


def judged(*placements: Placement) -> list[str]:
    """The verdict on these records."""
    return history.of_placements([codec.encode(one) for one in placements], GPUS)


def test_records_that_contradict_each_other_are_found() -> None:
    """Two contents for one number, half a pair, a node that two services have; the records as they came are sound, also twice."""
    first, second = written()
    (group,) = first.groups
    assert [] == judged(first, second, first)
    (twice,) = judged(first, msgspec.structs.replace(first, groups=[]))
    assert "two contents" in twice
    half = msgspec.structs.replace(group, instances=[one for one in group.instances if one.role == "prefill"])
    (born,) = judged(msgspec.structs.replace(first, groups=[half]))
    assert "born without a role" in born
    other = msgspec.structs.replace(first, service="other")
    assert [f"{name} gives 16 of 8 GPUs" for name in sorted(GPUS)] == judged(first, other)
