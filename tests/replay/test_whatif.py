"""Counterfactuals: exact up to their horizon, the simulator's after it, and honest about what the simulator gets wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.replay import archive, bundle, explain, overrides, whatif
from heteroscale.replay.decider import Theirs
from heteroscale.replay.other_windows import Windows
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.whatif import Answer, Case, Step
from support import incidents

FOLDER = Path(__file__).parent / "bundles"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def recorded() -> Iterator[Recorded]:
    """The burst."""
    with archive.opened(FOLDER / "burst.tar.zst") as found:
        yield Recorded(found)


def asked(recorded: Recorded, *texts: str) -> tuple[Answer, list[Step]]:
    """The one service under overrides, and its steps."""
    steps: list[Step] = []
    [answer] = whatif.ask(recorded, Case([overrides.parse(text) for text in texts]), steps.append)
    return answer, steps


def test_nothing_changed_means_no_horizon(recorded: Recorded) -> None:
    """The recorded spec again: every decision is equal and exact."""
    answer, steps = asked(recorded)
    assert (None, True) == (answer.horizon_ms, all(step.exact and step.other == step.recorded for step in steps))
    assert (None, None) == (answer.simulated, answer.simulated_as_recorded)


def test_a_counterfactual_is_exact_up_to_its_horizon(recorded: Recorded) -> None:
    """The horizon is the first changed action; all before it equal the recording, all after it are marked as simulated."""
    answer, steps = asked(recorded, "behavior.scale_in.stabilization=60s")
    held = next(one for one in recorded.decisions["chat"] if one.message.reason == "stabilizing")
    assert held.message.at_ms == answer.horizon_ms
    at = next(number for number, step in enumerate(steps) if step.changed)
    assert all(step.exact for step in steps[: at + 1])
    assert not any(step.exact for step in steps[at + 1 :])
    assert [one.decision for one in answer.changed] == [step.recorded.id for step in steps if step.changed]
    assert (len(recorded.decisions["chat"]), at) == (len(steps), answer.before.decisions)
    instead = answer.changed[0].instead
    assert instead is not None
    assert Action.SCALE_IN.value == instead.action
    assert answer.simulated is not None
    assert answer.simulated.gpu_hours < answer.recorded.gpu_hours


def test_the_simulator_goes_on_as_the_recording_did(recorded: Recorded) -> None:
    """From a horizon before the burst, the recorded policy in the simulator takes the recorded actions, at the recorded cost."""
    answer, _ = asked(recorded, "signals[0].target=700")
    true, again = answer.recorded, answer.simulated_as_recorded
    assert again is not None
    assert true.decisions == again.decisions >= 30
    assert (true.scale_outs, true.scale_ins) == (again.scale_outs, again.scale_ins)
    assert abs(again.gpu_hours - true.gpu_hours) <= 0.05 * true.gpu_hours
    assert answer.simulated is not None
    assert answer.simulated.gpu_hours > again.gpu_hours


def test_what_is_simulated_is_the_same_every_time(recorded: Recorded) -> None:
    """No draw, no clock: two runs give equal steps."""
    assert asked(recorded, "signals[0].target=700") == asked(recorded, "signals[0].target=700")


def test_an_incident_beyond_the_horizon_happens_again() -> None:
    """A switch that was lost on real Kafka and Redis is lost in the simulator: the recorded policy alarms and scales there too."""
    with archive.opened(FOLDER / "switch-lost.tar.zst") as found:
        recorded = Recorded(found)
        spec = recorded.specs["chat"][-1][1] or pytest.fail("there is no spec")
        answer, steps = asked(recorded, f"signals[0].target={(spec.signals[0].target or 0) * 0.6}")
    true, again, instead = answer.recorded, answer.simulated_as_recorded, answer.simulated
    assert again is not None
    assert instead is not None
    silent = [any(seen.instances.silent for seen in step.other_window.roles.values()) for step in steps if not step.exact]
    assert any(silent)
    assert (true.scale_outs, true.direction_changes) == (again.scale_outs, again.direction_changes)
    assert abs(again.gpu_hours - true.gpu_hours) <= 0.05 * true.gpu_hours
    assert true.guard_alarm_minutes > 0 < again.guard_alarm_minutes
    assert instead.in_slo is not None
    assert again.in_slo is not None
    assert instead.in_slo > again.in_slo


def test_a_hop_that_the_simulator_has_no_step_for_is_said(tmp_path: Path) -> None:
    """Where it cannot take over there are no simulated figures, the recorded ones stand, and a note says why."""
    with archive.opened(FOLDER / "burst.tar.zst") as found:
        odd = incidents.tampered(
            found.folder,
            tmp_path / "odd",
            Topic.SPECS,
            lambda record: record._replace(value=(record.value or b"").replace(b'"interval":"20s"', b'"interval":"18s"')),
        )
    answer, _ = asked(Recorded(bundle.open_folder(odd)), "signals[0].target=700")
    assert (None, None) == (answer.simulated_as_recorded, answer.simulated)
    assert answer.recorded.decisions >= 30
    assert any("not simulated" in note and "multiples of 5 s" in note for note in answer.notes)


def test_a_service_that_was_never_placed_is_simulated_on_a_fleet_of_its_own(tmp_path: Path) -> None:
    """Without any placement in the recording, what the window counted runs on nodes made up for it."""

    def unplaced(record: Record) -> Record:
        decision = codec.decode(Decision, record.value or b"")
        inputs = {at: offset for at, offset in decision.inputs.items() if Topic.PLACEMENTS.value not in at}
        return record._replace(value=codec.encode(msgspec.structs.replace(decision, inputs=inputs)))

    with archive.opened(FOLDER / "quiet.tar.zst") as found:
        first = incidents.tampered(found.folder, tmp_path / "first", Topic.PLACEMENTS, lambda _record: None)
    second = incidents.tampered(first, tmp_path / "second", Topic.DECISIONS, unplaced)
    answer, _ = asked(Recorded(bundle.open_folder(second)), "signals[0].target=400")
    assert any("no placement was recorded" in note for note in answer.notes)
    assert answer.simulated is not None
    assert answer.simulated.scale_outs >= 1


def test_another_checkout_decides_in_its_own_process(recorded: Recorded) -> None:
    """The tree itself as the other checkout gives the same decisions, also in the simulator; a folder without one is refused."""
    theirs = Case([overrides.parse("signals[0].target=700")], decider=lambda: Theirs(ROOT))
    assert [asked(recorded, "signals[0].target=700")[0]] == whatif.ask(recorded, theirs)
    [answer] = whatif.ask(recorded, Case(decider=lambda: Theirs(ROOT)))
    assert (None, 65) == (answer.horizon_ms, answer.decisions)
    with pytest.raises(Rejected, match="holds no heteroscale"):
        Theirs(ROOT / "docs")


def test_without_an_instance_its_share_is_missing(recorded: Recorded) -> None:
    """Without one decode's samples the windows count one less; a name that nobody has is refused."""
    heard = explain.explain(recorded, recorded.decisions["chat"][-2]).heard
    [name] = [one.instance for one in heard if one.role == "decode"][:1]
    steps: list[Step] = []
    whatif.ask(recorded, Case(without=(name,)), steps.append)
    step = next(one for one in steps if one.window.roles["decode"].instances.serving)
    assert step.exact
    assert step.window.roles["decode"].instances.serving - 1 == step.other_window.roles["decode"].instances.serving
    with pytest.raises(Rejected, match="no instance and no node"):
        whatif.ask(recorded, Case(without=("nobody",)))


def test_other_window_settings_make_the_windows_again() -> None:
    """A wider window is made from the telemetry; the first ones, which would reach back too far, stay as recorded, and a note says so."""
    with archive.opened(FOLDER / "switch-lost.tar.zst") as found:
        recorded = Recorded(found)
        spec = recorded.specs["chat"][-1][1] or pytest.fail("there is no spec")
        wider_ms = spec.window.size.ms + spec.window.hop.ms
        answer, steps = asked(recorded, f"window.size={wider_ms // 1000}s")
        since_ms = found.manifest.window.from_ms + spec.window.hop.ms
    assert (None, True) == (answer.horizon_ms, answer.reworded > 0)
    assert all(step.other_window == step.window for step in steps if step.window.end_ms <= since_ms)
    made = [step.other_window for step in steps if step.window.end_ms > since_ms]
    assert len(made) >= 30
    assert {wider_ms} == {window.end_ms - window.start_ms for window in made}
    assert any("are the recorded ones" in note for note in answer.notes)


@pytest.mark.parametrize(
    ("text", "says"),
    [("window.hop=30s", "instant of its own"), ("nobody:priority=1", "there are chat"), ("fleet=other", "cannot be another")],
)
def test_what_a_replay_cannot_be_asked_is_refused(recorded: Recorded, text: str, says: str) -> None:
    """Another hop, a service that is not in the bundle, another name: an answer would be an untruth."""
    with pytest.raises(Rejected, match=says):
        asked(recorded, text)


def test_windows_of_the_lead_in_stay_as_recorded(recorded: Recorded) -> None:
    """Telemetry from before the bundle's window is not whole, so a window from there is never made again; after it, none is made up."""
    shelf = recorded.windows["chat"]
    known = {("chat", shelf[3].message.end_ms): shelf[3].message}
    windows = Windows(known, {"chat": shelf[2].message.end_ms})
    expected = [shelf[1].message, shelf[2].message, shelf[3].message, None]
    assert expected == [windows.instead_of(shelf[number].message) for number in (1, 2, 3, 4)]


def _checkout(folder: Path, controller: str) -> Path:
    """The tree itself by links, with something added to its controller."""
    source, here = ROOT / "services" / "heteroscale", folder / "services" / "heteroscale"
    (here / "decision").mkdir(parents=True)
    for path in source.iterdir():
        if path.name != "decision":
            (here / path.name).symlink_to(path)
    for path in (source / "decision").iterdir():
        if path.name != "controller.py":
            (here / "decision" / path.name).symlink_to(path)
    (here / "decision" / "controller.py").write_text((source / "decision" / "controller.py").read_text() + controller)
    return folder


def test_what_another_checkout_prints_is_no_answer(recorded: Recorded, tmp_path: Path) -> None:
    """A print in it goes to stderr, and the pipe stays whole."""
    noisy = _checkout(tmp_path, "\n\nprint('loud')\n")
    [answer] = whatif.ask(recorded, Case(decider=lambda: Theirs(noisy)))
    assert (None, 65) == (answer.horizon_ms, answer.decisions)


def test_a_checkout_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    """Python would have taken the installed package instead, and said that nothing changes."""
    (tmp_path / "heteroscale" / "decision").mkdir(parents=True)
    (tmp_path / "heteroscale" / "decision" / "controller.py").write_text("POLICY_VERSION = 1\n")
    with pytest.raises(Rejected, match="not whole"):
        Theirs(tmp_path)


def test_a_policy_that_decides_nothing_leaves_the_recorded_course_whole(recorded: Recorded, tmp_path: Path) -> None:
    """Its column is empty, a note says why, and the recorded figures are those of all decisions."""
    mute = _checkout(tmp_path, "\n\n_step = step\n\n\ndef step(*given):\n    return _step(*given)[0], NOTHING\n")
    [answer] = whatif.ask(recorded, Case(decider=lambda: Theirs(mute)))
    assert (None, 65) == (answer.simulated, answer.before.decisions + answer.recorded.decisions)
    assert any("gave no decision at the horizon" in note for note in answer.notes)
