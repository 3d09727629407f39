"""`--set`: fields by path, checked as any spec is."""

from __future__ import annotations

import pytest

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import Duration
from heteroscale.replay import overrides
from support import lawbook


def test_a_field_is_set_and_the_rest_stays() -> None:
    """One duration and one list entry; revision and stamp are the recorded ones."""
    spec = lawbook.spec()
    changed = overrides.applied(spec, [overrides.parse("behavior.scale_in.cooldown=30s"), overrides.parse("signals[0].target=1234")])
    assert (Duration(30_000), 1234.0) == (changed.behavior.scale_in.cooldown, changed.signals[0].target)
    assert (spec.revision, spec.applied_at_ms, spec.roles) == (changed.revision, changed.applied_at_ms, changed.roles)


def test_an_override_of_another_service_changes_nothing() -> None:
    """SERVICE: in front limits it."""
    spec = lawbook.spec()
    assert spec is overrides.applied(spec, [overrides.parse("other:priority=1")])
    assert 1 == overrides.applied(spec, [overrides.parse("chat:priority=1")]).priority


def test_a_service_that_is_not_there_is_refused() -> None:
    """An override that would say nothing is a slip."""
    with pytest.raises(Rejected, match="there are chat, code"):
        overrides.check_services([overrides.parse("chta:priority=1")], ["code", "chat"])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("behaviour.scale_in.cooldown=30s", "did you mean behavior"),
        ("behavior.scale_in.cooldwn=30s", "did you mean cooldown"),
        ("signals[3].target=1", "has 1 entries"),
        ("behavior.scale_in.cooldown=30", "write 30s"),
        ("roles.decode.min=200", "max"),
        ("priority.low=1", "priority is a plain value"),
        ("signals[low].target=1", "no field path"),
        ("fleet=other", "cannot be another one"),
        ("cooldown", "write PATH=VALUE"),
        ("a..b[=1", "no field path"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_cure(text: str, says: str) -> None:
    """A wrong name, index, unit or value says what to write instead."""
    with pytest.raises(Rejected, match=says.replace("[", r"\[")):
        overrides.applied(lawbook.spec(), [overrides.parse(text)])
