"""The decision service on the log in memory: order of writes, crash at every write, one decision a window, backlog, let go."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from heteroscale.bus import catalogue, scan
from heteroscale.bus.dead_letters import Guard
from heteroscale.bus.log import Entry, Log, Record
from heteroscale.bus.memory import MemoryLog
from heteroscale.bus.partitioning import partition_of
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Retryable
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.decision import app, order
from heteroscale.decision.controller import ServiceState, Source
from heteroscale.decision.memory import Memory
from heteroscale.decision.settings import DecisionSettings
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from support import lawbook
from support.lawbook import HOP_MS, START_MS

PREFIX = "t"
SETTINGS = DecisionSettings(poll_ms=10)
LOADS = [4.0] * 5 + [8.0] * 4 + [3.0] * 6


class Crashing:
    """A log whose n-th append fails, before or after it took the entries. Everything else is the log's own."""

    def __init__(self, log: Log, at: int, *, taken: bool) -> None:
        self._log = log
        self._left = at
        self._taken = taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._log, name)

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """The log's own, but for the one that fails."""
        if entries:
            self._left -= 1
        if self._left == 0:
            if self._taken:
                await self._log.append(entries)
            raise Retryable("the log went away")
        return await self._log.append(entries)


def name(topic: Topic) -> str:
    return topic_name(PREFIX, topic)


async def fresh(services: Sequence[str] = ("chat",)) -> MemoryLog:
    """A log with topics, and a spec for each service."""
    log = MemoryLog()
    await catalogue.create(log, PREFIX)
    for service in services:
        spec = lawbook.spec(service=service, placement="none")
        await log.append([Entry(name(Topic.SPECS), service.encode(), codec.encode(spec), START_MS)])
    return log


async def give(log: Log, at: int, load: float, service: str = "chat") -> None:
    """Window number `at`, in which 4 decode instances serve."""
    document = codec.to_document(lawbook.window(at, decode=4, load=load))
    document["service"] = service
    payload = codec.encode(codec.convert(SignalWindow, document))
    await log.append([Entry(name(Topic.SIGNALS), service.encode(), payload, START_MS + at * HOP_MS)])


async def serve(log: Log, until: int, *, seconds: float = 5.0) -> None:
    """Run the service until `until` distinct decisions are on the log and nothing moves; a Retryable ends it like a crash."""
    context = Context(log=log, prefix=PREFIX, health=Health())
    task = asyncio.create_task(app.serve(context, SETTINGS))
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while not task.done() and loop.time() < deadline:
        await asyncio.sleep(0.01)
        if len({decision.id for decision in await read(log, Topic.DECISIONS, Decision)}) >= until:
            await asyncio.sleep(0.03)
            break
    context.stop.set()
    await task


async def records(log: Log, topic: Topic) -> list[Record]:
    places = await scan.partitions_of(log, [name(topic)])
    return [record async for batch in scan.to_end(log, places) for record in batch]


async def read(log: Log, topic: Topic, kind: type[Any]) -> list[Any]:
    return [codec.decode(kind, record.value) for record in await records(log, topic) if record.value is not None]


async def undisturbed() -> tuple[dict[str, bytes], bytes]:
    """Decisions by id and the last state of a run that nothing interrupts, one window at a time."""
    log = await fresh()
    for at, load in enumerate(LOADS):
        await give(log, at, load)
    await serve(log, len(LOADS))
    decisions = {found.id: codec.encode(found) for found in await read(log, Topic.DECISIONS, Decision)}
    return decisions, codec.encode((await read(log, Topic.DECISION_STATE, DecisionState))[-1].law)


async def test_every_window_gets_one_decision() -> None:
    """The union of decisions has one for each window, in order, with the command on its topic."""
    log = await fresh()
    for at, load in enumerate(LOADS):
        await give(log, at, load)
    await serve(log, len(LOADS))
    decisions = await read(log, Topic.DECISIONS, Decision)
    assert [START_MS + at * HOP_MS for at in range(len(LOADS))] == [decision.at_ms for decision in decisions]
    assert {"cold_start", "demand"} <= {decision.reason.value for decision in decisions}


@pytest.mark.parametrize("taken", [False, True], ids=["refused", "taken"])
@pytest.mark.parametrize("at", range(1, 16))
async def test_once_crash_at_every_write_decides_each_window_once(at: int, taken: bool) -> None:  # noqa: FBT001 - a test parameter
    """Whatever append fails, before or after it is durable: after a restart decisions and state equal an undisturbed run's."""
    expected, state = await undisturbed()
    log = await fresh()
    half = len(LOADS) // 2
    for number, load in enumerate(LOADS[:half]):
        await give(log, number, load)
    crashing = Crashing(log, at, taken=taken)
    with contextlib.suppress(Retryable):
        await serve(crashing, half, seconds=2)
    for number, load in enumerate(LOADS[half:], start=half):
        await give(log, number, load)
    await serve(log, len(LOADS))
    first: dict[str, bytes] = {}
    for found in await read(log, Topic.DECISIONS, Decision):
        first.setdefault(found.id, codec.encode(found))
        assert first[found.id] == codec.encode(found)
    assert expected == first
    assert state == codec.encode((await read(log, Topic.DECISION_STATE, DecisionState))[-1].law)


async def test_backlog_decides_all_and_commands_the_newest() -> None:
    """After a backlog there is a decision for every window, and a single command, which is the newest."""
    log = await fresh()
    for at, load in enumerate(LOADS):
        await give(log, at, load)
    await serve(log, len(LOADS))
    commands = await read(log, Topic.COMMANDS, Command)
    states = await read(log, Topic.DECISION_STATE, DecisionState)
    assert 1 == len(commands)
    assert states[-1].command == commands[0]


async def test_state_goes_before_its_decision_and_command() -> None:
    """Every decision's state is durable first, and remembers the decision and the command whole."""
    log = await fresh()
    for at, load in enumerate(LOADS):
        await give(log, at, load)
    await serve(log, len(LOADS))
    states = {state.decision.id: state for state in await read(log, Topic.DECISION_STATE, DecisionState) if state.decision}
    for decision in await read(log, Topic.DECISIONS, Decision):
        assert decision == states[decision.id].decision
        assert codec.digest(states[decision.id].law) == decision.state_digest


async def test_restart_publishes_last_words_byte_equal() -> None:
    """A new owner publishes the last decision and command again, as they were, and nothing else."""
    log = await fresh()
    for at, load in enumerate(LOADS):
        await give(log, at, load)
    await serve(log, len(LOADS))
    before = [await records(log, topic) for topic in (Topic.DECISIONS, Topic.COMMANDS)]
    await serve(log, len(LOADS))
    after = [await records(log, topic) for topic in (Topic.DECISIONS, Topic.COMMANDS)]
    for old, new in zip(before, after, strict=True):
        assert [old[-1].value] == [record.value for record in new[len(old) :]]


async def test_hourly_copy_beside_the_state() -> None:
    """The first decision of an hour leaves a copy under SERVICE#h<hour of week>, in the service's partition."""
    log = await fresh()
    for at in range(0, 600, 100):
        await give(log, at, 4.0)
    await serve(log, 6)
    states = await records(log, Topic.DECISION_STATE)
    copies = [record for record in states if b"#h" in (record.key or b"")]
    hours = {START_MS + at * HOP_MS: (START_MS + at * HOP_MS) // 3_600_000 for at in range(0, 600, 100)}
    assert len(set(hours.values())) == len(copies)
    assert 1 == len({record.partition for record in states})


async def test_tombstone_lets_go() -> None:
    """After a tombstone of the spec: no decision, no command, and the state is deleted."""
    log = await fresh()
    await give(log, 0, 4.0)
    await serve(log, 1)
    context = Context(log=log, prefix=PREFIX, health=Health())
    task = asyncio.create_task(app.serve(context, SETTINGS))
    await asyncio.sleep(0.1)
    await log.append([Entry(name(Topic.SPECS), b"chat", None, START_MS)])
    await asyncio.sleep(0.1)
    await give(log, 1, 9.0)
    await asyncio.sleep(0.1)
    context.stop.set()
    await task
    assert {START_MS} == {decision.at_ms for decision in await read(log, Topic.DECISIONS, Decision)}
    assert (await records(log, Topic.DECISION_STATE))[-1].value is None


async def test_two_workers_share_services_and_decide_once() -> None:
    """A second member joins and leaves: every window of every service still gets exactly one decision."""
    services = [f"s{i}" for i in range(12)]
    log = await fresh(services)
    contexts = [Context(log=log, prefix=PREFIX, health=Health()) for _ in range(2)]
    tasks = [asyncio.create_task(app.serve(contexts[0], SETTINGS))]
    for at in range(9):
        if at == 3:
            tasks.append(asyncio.create_task(app.serve(contexts[1], SETTINGS)))
        if at == 6:
            contexts[1].stop.set()
        for service in services:
            await give(log, at, 4.0, service)
        await asyncio.sleep(0.05)
    await asyncio.sleep(0.2)
    contexts[0].stop.set()
    await asyncio.gather(*tasks)
    decisions = await read(log, Topic.DECISIONS, Decision)
    assert dict.fromkeys(services, 9) == dict(Counter(service for service, _ in {(d.service, d.at_ms) for d in decisions}))
    assert 1 == max(Counter((d.service, d.at_ms) for d in {codec.encode(d): d for d in decisions}.values()).values())


async def test_bad_records_go_to_dead_letters_and_the_rest_goes_on() -> None:
    """NOTHING-LOST: a window that cannot be read is a dead letter; its neighbours are decided."""
    log = await fresh()
    await give(log, 0, 4.0)
    await log.append([Entry(name(Topic.SIGNALS), b"chat", b"{not json", START_MS)])
    await give(log, 1, 4.0)
    await serve(log, 2)
    assert 2 == len(await read(log, Topic.DECISIONS, Decision))
    assert 1 == len(await records(log, Topic.DEAD_LETTERS))


@pytest.mark.parametrize(
    ("key", "change"),
    [("chat", {"window": {"size": "0s"}}), ("chat", {"ratio": {"prefill": 0, "decode": 0}}), ("other", {})],
)
async def test_a_senseless_spec_is_refused_and_the_last_good_one_stays(key: str, change: dict[str, Any]) -> None:
    """Whoever wrote it: its dead letter says why, and windows that were built under it do not wait for it."""
    log = await fresh()
    await give(log, 0, 4.0)
    await serve(log, 1)
    bad = codec.to_document(lawbook.spec(service="chat", placement="none")) | {"revision": 9} | change
    await log.append([Entry(name(Topic.SPECS), key.encode(), msgspec.json.encode(bad), START_MS)])
    for at in range(1, 30):
        window = codec.to_document(lawbook.window(at, decode=4, load=4.0)) | {"spec_revision": 9}
        await log.append([Entry(name(Topic.SIGNALS), b"chat", msgspec.json.encode(window), START_MS + at * HOP_MS)])
    await serve(log, 30)
    decisions = await read(log, Topic.DECISIONS, Decision)
    assert 30 == len({decision.id for decision in decisions})
    assert {lawbook.spec(service="chat").revision} == {decision.spec_revision for decision in decisions}
    refused = await read(log, Topic.DEAD_LETTERS, DeadLetter)
    assert {("decision", name(Topic.SPECS))} == {(letter.stage, letter.topic) for letter in refused}


async def test_desired_counts_are_told_for_own_actuators() -> None:
    """The document at /desired has a plain number for one role of one service, as a metrics-api scaler reads it."""
    log = await fresh()
    await give(log, 0, 4.0)
    context = Context(log=log, prefix=PREFIX, health=Health())
    task = asyncio.create_task(app.serve(context, SETTINGS))
    await asyncio.sleep(0.15)
    told = context.documents["/desired"]({"service": "chat", "role": "decode"})
    context.stop.set()
    await task
    assert {"service": "chat", "role": "decode", "desired": 4, "draining": 0, "serving": 4} == told


async def test_cold_start_reads_placements_older_than_where_others_go_on() -> None:
    """A service whose state was lost finds its Placement, though its neighbours resume behind it."""
    log = await fresh(["chat", "a"])
    lost = lawbook.placement(3, seq=1, counts={"decode": {"ready": 6}, "prefill": {"ready": 3}})
    spec = lawbook.spec()
    await log.append([Entry(name(Topic.SPECS), b"chat", codec.encode(spec), START_MS)])
    partition = scan_partition("chat")
    await log.append([Entry(name(Topic.PLACEMENTS), b"chat", codec.encode(lost), START_MS, partition)])
    neighbour = codec.convert(type(lost), codec.to_document(lost) | {"service": "a"})
    await log.append([Entry(name(Topic.PLACEMENTS), b"a", codec.encode(neighbour), START_MS, partition)])
    states = Memory(log, PREFIX, Guard(log, PREFIX, "decision"))
    states.specs["a"] = (spec, Source("specs", 1))
    states.states["a"] = ServiceState("a", spec, inputs={f"{name(Topic.PLACEMENTS)}-{partition}": 2})
    states.held = {partition}
    await states.complete("chat")
    view = states.states["chat"].law.placement
    assert view is not None
    assert 6 == view.roles["decode"].ready


def scan_partition(service: str) -> int:
    """The partition of a service."""
    return partition_of(service.encode(), 12)


def test_order_is_by_time_and_never_against_a_partition() -> None:
    """Placements go before the windows of a later time; offsets of one partition stay in order whatever their stamps say."""
    signals, placements = name(Topic.SIGNALS), name(Topic.PLACEMENTS)
    given = [
        Record(signals, 0, 5, 200, b"a", b""),
        Record(signals, 0, 6, 150, b"a", b""),
        Record(placements, 0, 1, 200, b"a", b""),
        Record(placements, 0, 2, 300, b"a", b""),
        Record(signals, 1, 9, 100, b"b", b""),
    ]
    ordered = [(record.topic == placements, record.partition, record.offset) for record in order.by_time(given)]
    assert [(False, 1, 9), (True, 0, 1), (False, 0, 5), (False, 0, 6), (True, 0, 2)] == ordered


async def decided_under(log: Log, loads: Sequence[float]) -> dict[int, bytes]:
    """Decisions by window end, after the service ran over windows of these loads."""
    for at, load in enumerate(loads):
        await give(log, at, load)
    await serve(log, len(loads))
    return {found.at_ms: codec.encode(found) for found in await read(log, Topic.DECISIONS, Decision)}


async def test_a_state_that_cannot_be_read_is_a_dead_letter_and_the_one_before_stands_in() -> None:
    """NOTHING-LOST: its place and its bytes are kept, the service decides the same again and goes on, and a restart adds no letter."""
    log = await fresh()
    before = await decided_under(log, LOADS[:6])
    at = partition_of(b"chat", 12)
    garbage = Entry(name(Topic.DECISION_STATE), b"chat", b'{"service":', START_MS, at)
    offset = (await log.append([garbage]))[0]
    await give(log, 6, 8.0)
    await serve(log, 7)
    await serve(log, 7, seconds=0.3)
    decisions = {found.at_ms: codec.encode(found) for found in await read(log, Topic.DECISIONS, Decision)}
    assert before == {end_ms: decisions[end_ms] for end_ms in before}
    assert START_MS + 6 * HOP_MS in decisions
    (letter,) = await read(log, Topic.DEAD_LETTERS, DeadLetter)
    assert (name(Topic.DECISION_STATE), at, offset, "decision", "undecodable", b'{"service":') == (
        letter.topic,
        letter.partition,
        letter.offset,
        letter.stage,
        letter.code,
        letter.payload,
    )


async def test_without_any_state_that_can_be_read_a_service_starts_as_a_new_one_does() -> None:
    """No process ends for it: the first window is a cold start, as for a service that runs already and was never decided."""
    log = await fresh()
    at = partition_of(b"chat", 12)
    await log.append(
        [Entry(name(Topic.DECISION_STATE), b"chat", value, START_MS, at) for value in (b"{", b'{"service":"other","inputs":{}}')]
    )
    decisions = await decided_under(log, LOADS[:3])
    assert 3 == len(decisions)
    first = codec.decode(Decision, decisions[min(decisions)])
    assert "cold_start" == first.reason.value
    assert 2 == len(await read(log, Topic.DEAD_LETTERS, DeadLetter))


async def test_a_window_from_next_year_does_not_silence_a_service() -> None:
    """One wrong clock: the window is a dead letter with its place once refuted, and every true window is decided as ever."""
    log, clean = await fresh(), await fresh()
    expected = await decided_under(clean, LOADS[:6])
    for at in range(3):
        await give(log, at, LOADS[at])
    await give(log, 2_102_400, LOADS[3])
    for at in range(3, 6):
        await give(log, at, LOADS[at])
    await serve(log, 6)
    decisions = await read(log, Topic.DECISIONS, Decision)
    assert sorted(expected) == [decision.at_ms for decision in decisions]
    assert [codec.decode(Decision, expected[decision.at_ms]).after for decision in decisions] == [decision.after for decision in decisions]
    (letter,) = await read(log, Topic.DEAD_LETTERS, DeadLetter)
    assert ("future", name(Topic.SIGNALS), 3) == (letter.code, letter.topic, letter.offset)


async def test_after_a_long_silence_windows_are_believed_when_the_next_one_follows() -> None:
    """The first window after a day without any is decided together with the second, each once; a restart in between changes nothing."""
    log = await fresh()
    for at in (0, 1, 2, 5_760):
        await give(log, at, 4.0)
    await serve(log, 4, seconds=0.3)
    assert 3 == len({found.id for found in await read(log, Topic.DECISIONS, Decision)})
    await give(log, 5_761, 4.0)
    await serve(log, 5)
    ends = {found.id: found.at_ms for found in await read(log, Topic.DECISIONS, Decision)}
    assert [START_MS + at * HOP_MS for at in (0, 1, 2, 5_760, 5_761)] == sorted(ends.values())
    assert [] == await read(log, Topic.DEAD_LETTERS, DeadLetter)
