"""Explanations and counterfactuals of a recorded burst: each figure against the records it is about."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.telemetry import Samples
from heteroscale.contracts.topics import Topic
from heteroscale.decision.law.figures import plain
from heteroscale.replay import archive, bundle, explain, overrides, report, whatif, whynot
from heteroscale.replay.recorded import Found, Recorded
from heteroscale.replay.store import place_of
from support import incidents

BURST = Path(__file__).parent / "bundles" / "burst.tar.zst"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """The burst."""
    with archive.opened(BURST) as found:
        yield Recorded(found)


def first(recorded: Recorded, action: Action, reason: str = "demand") -> Found[Decision]:
    """The first decision of a kind."""
    return next(one for one in recorded.decisions["chat"] if one.message.action is action and one.message.reason == reason)


def test_a_scale_out_is_followed_to_its_nodes_and_acknowledgements(recorded: Recorded) -> None:
    """Back: window, tick and samples by offset. Forward: command, placement, each new instance's node, ready, converged."""
    found = first(recorded, Action.SCALE_OUT)
    told = explain.explain(recorded, found)
    window = next(one for one in recorded.windows["chat"] if one.message.end_ms == found.message.at_ms)
    assert (place_of(found.record), place_of(window.record)) == (told.decision_at, told.window_at)
    assert window.message.inputs is not None
    assert told.window_closed_by == f"incident.telemetry.v1/2@{window.message.inputs.last_offset}"
    grown = sum(after.replicas - found.message.before[role].replicas for role, after in found.message.after.items())
    born = {one.instance: one.nodes for one in told.moved if one.before is None}
    assert (grown, grown) == (len(born), len([one for one in told.said if one.kind == "ready" and one.instance in born]))
    assert all(nodes and nodes[0].startswith("n") for nodes in born.values())
    assert told.ended.startswith("converged at ")


def test_the_samples_of_a_window_are_those_of_its_offsets(recorded: Recorded) -> None:
    """Every serving instance was heard, and what it generated adds up to the window's rate within the hop's edges."""
    told = explain.explain(recorded, recorded.decisions["chat"][40])
    serving = sum(one.instances.serving for one in told.window.values())
    offsets = {record.offset for record in recorded.bundle.records(Topic.TELEMETRY)}
    assert serving == len(told.heard)
    assert all(int(one.first.rpartition("@")[2]) in offsets for one in told.heard)


def test_counters_that_are_there_and_not_at_one_instant(recorded: Recorded, tmp_path: Path) -> None:
    """An instance that two publishers speak for, one without its counters, is explained as any other."""

    def doubled(record: Record) -> Record:
        if record.key is None or record.value is None:
            return record
        said = codec.decode(Samples, record.value)
        mute = [msgspec.structs.replace(one, generation_tokens=None, prompt_tokens=None) for one in said.samples]
        return record._replace(value=codec.encode(msgspec.structs.replace(said, samples=[*said.samples, *mute])))

    other = Recorded(bundle.open_folder(incidents.tampered(recorded.bundle.folder, tmp_path / "twice", Topic.TELEMETRY, doubled)))
    one, two = (explain.explain(each, each.decisions["chat"][40]).heard for each in (recorded, other))
    assert [each.decode_tokens for each in one] == [each.decode_tokens for each in two]
    assert [2 * each.samples for each in one] == [each.samples for each in two]


def test_the_decision_in_force_at_an_instant(recorded: Recorded) -> None:
    """The last one at or before it; before the first one there is none, and the message says when it came."""
    decisions = recorded.decisions["chat"]
    assert [decisions[10]] == explain.in_force(recorded, decisions[10].message.at_ms + 59_999, None)
    with pytest.raises(Rejected, match="the first decision here is of"):
        explain.in_force(recorded, decisions[0].message.at_ms - 1, "chat")


def test_an_id_may_be_shortened_while_it_is_one(recorded: Recorded) -> None:
    """A prefix that fits several decisions is refused with all of them."""
    assert recorded.decisions["chat"][3].message == explain.find(recorded, recorded.decisions["chat"][3].message.id[:8]).message
    with pytest.raises(Rejected, match="decisions begin so"):
        explain.find(recorded, "")


def test_why_not_names_limits_whose_absence_really_acts(recorded: Recorded) -> None:
    """A hold that stabilisation caused: without it the law scales in; and each named limit is checked by the law itself."""
    held = first(recorded, Action.HOLD, "stabilizing")
    reply = whynot.ask(whynot.situation(recorded, held.message), Action.SCALE_IN)
    assert "behavior.scale_in.stabilization: 0s" in reply.lifted
    assert Action.HOLD is reply.taken


def test_why_not_names_the_demand_that_would_have(recorded: Recorded) -> None:
    """A steady window would have scaled out above target times count times tolerance, to four digits."""
    steady = recorded.decisions["chat"][30]
    assert "steady" == steady.message.reason
    reply = whynot.ask(whynot.situation(recorded, steady.message), Action.SCALE_OUT)
    count = steady.message.before["decode"].replicas
    assert reply.demand is not None
    assert f"decode_tps of decode at {plain(count * 3000 * 1.05)} instead of" in reply.demand


def test_the_page_holds_everything_and_fetches_nothing(recorded: Recorded) -> None:
    """One file: every decision's id and place is in it, and no address of anything outside."""
    case = whatif.Case([overrides.parse("behavior.scale_in.stabilization=60s")])
    page, _ = report.page(recorded, case, title="stabilization=60s")
    assert [] == [one.place for one in recorded.decisions["chat"] if one.place not in page]
    assert [] == [word for word in ("src=", "href=", "@import", "url(", "fetch(") if word in page]
    assert ["http://www.w3.org/2000/svg"] == [part.split('"')[0] for part in page.split('"') if part.startswith("http")]


def test_instances_of_the_page_are_counted_by_state(recorded: Recorded) -> None:
    """The placement lane shows what the last placement lists."""
    page, _ = report.page(recorded, whatif.Case(), title="")
    ready = sum(one.state is InstanceState.READY for group in recorded.placements[-1].message.groups for one in group.instances)
    assert ready > 0
    assert f'"{InstanceState.READY.value}":' in page
