"""Cores called directly say what the services say; conservation, linear cost in memory, silence, and what spoils telemetry."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.topics import Topic
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator import closing, offline
from heteroscale.simulator.cluster import world
from heteroscale.simulator.cluster.actuator import Actuator
from heteroscale.simulator.cluster.world import Scene
from heteroscale.simulator.cores import direct
from heteroscale.simulator.cores.direct import Direct, Ours
from heteroscale.simulator.cores.panes import Inside
from heteroscale.simulator.load.traffic import REQUESTS
from heteroscale.simulator.loop.crew import Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.offline import Request, Through
from heteroscale.simulator.play import Played, play
from support.simulation_cast import START_MS, scene
from support.topic_values import values


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logs.configure(LogFormat.JSON, LogLevel.ERROR)


class Kept:
    """The production controller, with its windows and decisions kept."""

    def __init__(self, ours: Ours) -> None:
        self.ours = ours
        self.windows: list[SignalWindow] = []
        self.decisions: list[Decision] = []
        self.placed = ours.placed

    def window(self, window: SignalWindow) -> tuple[Decision, object]:
        """See direct.Decider."""
        decision, command = self.ours.window(window)
        self.windows.append(window)
        self.decisions.append(decision)
        return decision, command


def directly(here: Scene, inside: Inside = Inside.LAST) -> tuple[Direct, dict[str, Kept]]:
    """The scene without a log."""
    built = world.build(here)
    kept = {name: Kept(Ours(spec)) for name, spec in built.specs.items()}
    run = Direct(built, dict(kept), closing.tallies_of(here, built.models), inside)  # type: ignore[arg-type]  # a Decider by shape
    run.play(here.ends_at_ms + 1, lambda *_: None)
    return run, kept


async def through_services(here: Scene) -> tuple[Played, MemoryLog]:
    """The scene with all services over the log in memory."""
    log = MemoryLog()
    return await play(here, log, Tasks(log, here.prefix, Embedded().services()), lambda _: None, timeout_s=30.0), log


def counted(signal: RoleSignal) -> tuple[int, int, int]:
    """Without draining: an engine that ends between two samples is remembered as draining only where there are samples."""
    return (signal.instances.loading, signal.instances.serving, signal.instances.silent)


def said(decisions: Sequence[Decision]) -> list[tuple[int, str, str, dict[str, tuple[int, int]]]]:
    """What matters of decisions."""
    return [(d.at_ms, d.action, d.reason, {role: (n.replicas, n.draining) for role, n in d.after.items()}) for d in decisions]


@pytest.mark.timeout(300)  # the services take 15 s alone on a core, and this machine's may be shared
async def test_cores_alone_decide_as_the_services_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rates agree within 5 % (nearly always 0.1 %), instances exactly; decisions are the same; figures agree within 1 %."""
    monkeypatch.setattr(Actuator, "_startup_ms", lambda *_: 130_000)  # else drawn by name, and names depend on offsets
    here = scene(0.3, "instance:code/prefill@8m")
    run, kept = directly(here)
    played, log = await through_services(here)
    windows: dict[str, list[SignalWindow]] = {}
    for value in await values(log, here.prefix, Topic.SIGNALS):
        window = codec.decode(SignalWindow, value)
        windows.setdefault(window.service, []).append(window)
    decisions: dict[str, list[Decision]] = {}
    for value in await values(log, here.prefix, Topic.DECISIONS):
        decision = codec.decode(Decision, value)
        decisions.setdefault(decision.service, []).append(decision)
    off: list[float] = []
    gauges: list[float] = []
    for name, one in kept.items():
        pairs = list(zip(windows[name], one.windows, strict=False))
        assert len(pairs) > 60
        for real, ours in pairs:
            assert real.end_ms == ours.end_ms
            for role, signal in real.roles.items():
                assert counted(signal) == counted(ours.roles[role]), (name, role, real.end_ms)
                for figure in ("decode_tps", "prefill_tps", "prefill_missed_tps"):
                    rate = getattr(signal, figure)
                    if rate is not None and signal.coverage == 1.0:  # before, an engine's first sample gives no difference
                        off.append(abs(rate / getattr(ours.roles[role], figure) - 1.0))
                for figure in ("running", "waiting"):
                    inside = getattr(signal, figure)
                    if inside is not None and signal.coverage == 1.0:
                        gauges.append(abs(inside - getattr(ours.roles[role], figure)) / max(inside, 1.0))
        first = min(len(decisions[name]), len(one.decisions))
        assert said(decisions[name][:first]) == said(one.decisions[:first])
    assert max(off) < 0.05  # what an engine did between its last sample and its crash is seen by nobody
    assert sorted(off)[len(off) * 9 // 10] < 0.001
    assert sorted(gauges)[len(gauges) * 9 // 10] < 0.001
    summary = closing.of_direct(here, run).summary
    assert summary.gpu_hours == pytest.approx(played.closing.summary.gpu_hours, rel=0.01)
    assert summary.slo_attainment == pytest.approx(played.closing.summary.slo_attainment, abs=0.005)
    assert summary.gpu_util == pytest.approx(played.closing.summary.gpu_util, rel=0.01)


def test_every_request_is_served_queued_or_given_up() -> None:
    """Conservation of requests and tokens without a log, also after a leaf was lost."""
    run, _ = directly(scene(0.7, "s1:leaf-1-1@10m+10m"))
    for model in run.world.models.values():
        ledger = model.ledger
        assert ledger.offered[REQUESTS] == pytest.approx(model.load[:, REQUESTS].sum())
        assert ledger.offered == pytest.approx(ledger.finished + ledger.given_up + model.waiting())
    assert [] == closing.of_direct(run.world.scene, run).faults


def test_requests_inside_are_the_last_sample_or_the_mean_of_the_window() -> None:
    """Prefill runs one prompt an engine, so their mean is the mean busy share times engines; the last sample is another number."""
    off = {}
    for inside in Inside:
        _, kept = directly(scene(0.3), inside)
        signals = [window.roles["prefill"] for window in kept["chat"].windows if window.start_ms >= START_MS]
        calm = [one for one in signals if one.coverage == 1.0 and not one.instances.draining]
        off[inside] = max(abs((one.running or 0.0) - (one.gpu_util or 0.0) * one.instances.serving) for one in calm)
        assert len(calm) > 5
    assert off[Inside.MEAN] < 1e-3
    assert off[Inside.LAST] > 0.05


def test_the_same_seed_gives_the_same_decisions() -> None:
    """Byte for byte; another seed's are others."""
    runs = [b"".join(codec.encode(d) for d in directly(scene(0.4, seed=seed))[1]["chat"].decisions) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_large_requests_are_played_by_the_cores() -> None:
    """auto: the services, unless there is too much telemetry; what needs telemetry stays with the services."""
    small = scene(0.2)
    asked = Request(small.specs, small.traffic, small.nodes)
    day = Request(small.specs, scene(24).traffic, small.nodes)
    assert Through.SERVICES is offline.way(asked)
    assert offline.samples_of(day) < offline.SAMPLES_MAX
    assert Through.SERVICES is offline.way(day)
    busy = Request([*small.specs] * 20, [*scene(24).traffic] * 20, small.nodes)
    assert Through.CORES is offline.way(busy)
    silent = Request(small.specs, small.traffic, small.nodes, faults=scene(0.2, "silence:chat@1m+2m").faults, through=Through.CORES)
    with pytest.raises(Rejected, match="telemetry"):
        offline.way(silent)
    assert direct.can_play(small.specs) is None


async def test_silence_never_lowers_capacity() -> None:
    """MISSING-IS-NOT-ZERO: while nothing is heard of decode for ten minutes, nobody scales in, and afterwards the loop goes on."""
    here = scene(0.6, "silence:code/decode@10m+10m")
    played, log = await through_services(here)
    decisions = [codec.decode(Decision, value) for value in await values(log, here.prefix, Topic.DECISIONS)]
    within = [d for d in decisions if d.service == "code" and 0 < d.at_ms - here.start_ms - 660_000 < 540_000]
    assert len(within) > 5
    assert "scale-in" not in {d.action for d in within}
    counts = [d.after["prefill"].replicas for d in within]
    assert counts == sorted(counts)
    assert [] == played.closing.faults


async def test_garbage_goes_to_dead_letters_and_nowhere_else() -> None:
    """NOTHING-LOST: each spoilt sample is a dead letter, its service holds or grows, and its neighbour does not notice."""
    here = scene(0.5, "garbage:chat/decode@10m+5m")
    played, log = await through_services(here)
    letters = [json.loads(value) for value in await values(log, here.prefix, Topic.DEAD_LETTERS)]
    assert letters
    assert all(-1 in json.loads(base64_of(letter)).values() for letter in letters)
    assert [f"{len(letters)} dead letters"] == played.closing.faults
    decisions = [codec.decode(Decision, value) for value in await values(log, here.prefix, Topic.DECISIONS)]
    within = [d for d in decisions if d.service == "chat" and 0 < d.at_ms - here.start_ms - 660_000 < 240_000]
    assert "scale-in" not in {d.action for d in within}


def base64_of(letter: dict[str, str]) -> bytes:
    """The payload of a dead letter."""
    import base64  # noqa: PLC0415 - here alone

    return base64.b64decode(letter["payload"])


async def test_samples_that_come_a_minute_late_are_counted_as_late() -> None:
    """They take part in no closed window and lower coverage; nobody scales in on what is missing."""
    here = scene(0.5, "late:code@10m+5m")
    _, log = await through_services(here)
    windows = [codec.decode(SignalWindow, value) for value in await values(log, here.prefix, Topic.SIGNALS)]
    assert sum(window.late_samples for window in windows if window.service == "code") > 0
    assert 0 == sum(window.late_samples for window in windows if window.service == "chat")
    decisions = [codec.decode(Decision, value) for value in await values(log, here.prefix, Topic.DECISIONS)]
    within = [d for d in decisions if d.service == "code" and 0 < d.at_ms - here.start_ms - 660_000 < 240_000]
    assert "scale-in" not in {d.action for d in within}


def test_a_telemetry_fault_that_names_nobody_is_refused() -> None:
    """The message lists services and roles."""
    with pytest.raises(Rejected, match="chat/decode"):
        world.build(scene(0.2, "silence:nobody@1m"))
