"""A bundle from the topics: by timestamp look-up, without a consumer group, as a stream. Reads; has nothing to write with.

The window is what a person asks about. What the stages need before it (the lead-in) is worked out here: the state a decision
started from and what came after it, the telemetry that a signals worker would re-read, an hour of commands and placements.
Ends are fixed before the first read, so topics may be written meanwhile.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Final

from heteroscale.bus import partitioning, scan
from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec, keys
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, ServiceName
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.contracts.units import MS_PER_UNIT, instant_text
from heteroscale.decision.controller import POLICY_VERSION
from heteroscale.replay import manifest
from heteroscale.replay.bundle import BundleWriter, Taken
from heteroscale.replay.manifest import Made, Manifest, Span
from heteroscale.replay.redact import Redactor, collect
from heteroscale.signals.timeline import parameters

HOUR_MS: Final = MS_PER_UNIT["h"]
MARGIN_MS: Final = 2 * MS_PER_UNIT["m"]  # clocks and batching: a record's stamp may differ this much from its content
STATE_BACK_MS: Final = HOUR_MS + MARGIN_MS  # an hourly copy of each state is at most this old
BEHIND_MS: Final = 2 * MS_PER_UNIT["m"]  # a placement bears its newest command's instant, and may have read what was said after it
OF_FLEET: Final = (Topic.COMMANDS, Topic.ACTUATIONS)
Progress = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to capture. No services: all that have a spec."""

    prefix: str
    window: Span
    services: Sequence[ServiceName] = ()
    fields: Sequence[str] = ()
    pseudonyms: Sequence[str] = ()


@dataclass(slots=True)
class _Plan:
    """Ranges to read, and which records of them to keep."""

    services: frozenset[ServiceName]
    fleets: frozenset[FleetName]
    specs: Mapping[ServiceName, list[ServiceSpec]]
    peers: frozenset[ServiceName]  # all services of those fleets
    starts: dict[TopicPartition, int] = field(default_factory=dict)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    missing: dict[TopicPartition, Span] = field(default_factory=dict)
    stragglers: list[Record] = field(default_factory=list)  # newest placements from before the lead-in


async def capture(log: Log, wanted: Wanted, folder: Path, progress: Progress | None = None) -> Manifest:
    """Write a bundle directory. Raises Rejected (`unknown_service`, `empty`, `no_topics`, `exists`), Retryable."""
    planner = _Planner(log, wanted)
    plan = await planner.plan()
    redactor = Redactor(wanted.fields, {})
    if wanted.pseudonyms:
        names = await collect(_all_records(log, plan), wanted.pseudonyms)
        redactor = Redactor(wanted.fields, names, plan.peers | plan.fleets)
    writer = BundleWriter(folder, wanted.prefix)
    try:
        await _copy(log, plan, redactor, writer, progress or (lambda _topic, _records: None))
        about = _about(wanted, plan)
        return writer.finish(about, _readme(about))
    except BaseException:
        writer.discard()
        raise


async def _copy(log: Log, plan: _Plan, redactor: Redactor, writer: BundleWriter, tell: Progress) -> None:
    """The records of the ranges, topic by topic."""
    for topic in Topic:
        ranges = {at: (start, plan.ends[at]) for at, start in sorted(plan.starts.items()) if at.topic == topic_name(writer.prefix, topic)}
        for at, (start, end) in ranges.items():
            first = min([start, *(one.offset for one in plan.stragglers if one.at == at)])
            writer.covers(topic, at.partition, Taken(first, end, missing=plan.missing.get(at)))
        for record in sorted((one for one in plan.stragglers if one.at in ranges), key=lambda one: (one.partition, one.offset)):
            writer.write(topic, redactor.record(topic, record))
        count = 0
        async for batch in scan.between(log, ranges):
            for record in batch:
                if _keeps(plan, topic, record):
                    writer.write(topic, redactor.record(topic, record))
                    count += 1
            tell(topic.value, count)


def _about(wanted: Wanted, plan: _Plan) -> Manifest:
    """What the manifest says before anything is written."""
    return Manifest(
        format=manifest.FORMAT,
        version=manifest.VERSION,
        made=Made(heteroscale=version("heteroscale"), policy_version=POLICY_VERSION),
        prefix=wanted.prefix,
        window=wanted.window,
        services=sorted(plan.services),
        fleets=sorted(plan.fleets),
        topics={},
        cuts={},
        spec_revisions={
            name: [one.revision for one in specs if one.revision is not None] for name, specs in plan.specs.items() if name in plan.services
        },
        redactions=manifest.Redactions(fields=sorted(wanted.fields), pseudonyms=sorted(wanted.pseudonyms)),
    )


class _Planner:
    """Works out what to read."""

    def __init__(self, log: Log, wanted: Wanted) -> None:
        self._log = log
        self._wanted = wanted
        self._prefix = wanted.prefix

    async def plan(self) -> _Plan:
        """Ranges for every topic."""
        specs = await self._specs()
        if not specs:
            raise Rejected("empty", f"there is no service under the prefix {self._prefix}", topic_name(self._prefix, Topic.SPECS))
        strange = sorted(set(self._wanted.services) - specs.keys())
        if strange:
            raise Rejected("unknown_service", f"has no spec; there are {', '.join(sorted(specs))}", strange[0])
        services = frozenset(self._wanted.services or specs)
        fleets = frozenset(one.fleet for name in services for one in specs[name])
        peers = frozenset(name for name, revisions in specs.items() if any(one.fleet in fleets for one in revisions))
        plan = _Plan(services, fleets, specs, peers)
        await self._whole(plan, Topic.SPECS)
        await self._whole(plan, Topic.FLEET)
        await self._of_services(plan)
        await self._of_fleets(plan)
        whole = {topic_name(self._prefix, topic) for topic in (Topic.SPECS, Topic.FLEET)}
        if all(start >= plan.ends[at] for at, start in plan.starts.items() if at.topic not in whole):
            span = self._wanted.window
            what = f"nothing was recorded from {instant_text(span.from_ms)} to {instant_text(span.to_ms)}"
            raise Rejected("empty", f"{what}; {await self._held(services)}", topic_name(self._prefix, Topic.DECISIONS))
        return plan

    async def _held(self, services: Iterable[ServiceName]) -> str:
        """From when to when there are decisions."""
        places = await self._homes(Topic.DECISIONS, services)
        begins, ends = await self._log.begin_offsets(places), await self._log.end_offsets(places)
        edges = [(at, offset) for at in places if begins[at] < ends[at] for offset in (begins[at], ends[at] - 1)]
        stamps = [stamp for at, offset in edges if (stamp := await self._stamp(at, offset)) is not None]
        if not stamps:
            return "there is no decision at all"
        return f"there are decisions from {instant_text(min(stamps))} to {instant_text(max(stamps))}"

    async def _specs(self) -> dict[ServiceName, list[ServiceSpec]]:
        found: dict[ServiceName, list[ServiceSpec]] = {}
        places = await self._places(Topic.SPECS)
        async for batch in scan.to_end(self._log, places):
            for record in batch:
                if record.value is not None:
                    try:
                        spec = codec.decode(ServiceSpec, record.value)
                    except Rejected:
                        continue
                    found.setdefault(spec.service, []).append(spec)
        return dict(sorted(found.items()))

    async def _places(self, topic: Topic) -> list[TopicPartition]:
        name = topic_name(self._prefix, topic)
        layouts = await self._log.describe_topics([name])
        if name not in layouts:
            raise Rejected("no_topics", f"there is no topic {name}; name the right --prefix")
        return [TopicPartition(name, partition) for partition in range(layouts[name].partitions)]

    async def _homes(self, topic: Topic, keys: Iterable[str]) -> list[TopicPartition]:
        places = await self._places(topic)
        return sorted({places[partitioning.partition_of(key.encode(), len(places))] for key in keys})

    async def _whole(self, plan: _Plan, topic: Topic) -> None:
        """A compacted topic of one partition, all of it."""
        places = await self._places(topic)
        plan.starts |= await self._log.begin_offsets(places)
        plan.ends |= await self._log.end_offsets(places)

    async def _of_services(self, plan: _Plan) -> None:
        window = self._wanted.window
        horizon_ms = max((parameters(spec).horizon_ms for name in plan.services for spec in plan.specs[name]), default=0)
        hop_ms = max((parameters(spec).hop_ms for name in plan.services for spec in plan.specs[name]), default=0)
        until_ms = window.to_ms + hop_ms + MARGIN_MS
        await self._range(plan, await self._homes(Topic.DECISION_STATE, plan.services), window.from_ms - STATE_BACK_MS, until_ms)
        lead_ms = await self._lead_ms(plan)
        await self._range(plan, await self._homes(Topic.TELEMETRY, plan.services), window.from_ms - horizon_ms - MARGIN_MS, until_ms)
        for topic in (Topic.SIGNALS, Topic.DECISIONS):
            await self._range(plan, await self._homes(topic, plan.services), lead_ms, until_ms)
        await self._range(plan, await self._places(Topic.DEAD_LETTERS), window.from_ms, until_ms)

    async def _of_fleets(self, plan: _Plan) -> None:
        window = self._wanted.window
        since_ms, until_ms = min(window.from_ms, await self._lead_ms(plan)) - HOUR_MS, window.to_ms + MARGIN_MS
        for topic in OF_FLEET:
            await self._range(plan, await self._homes(topic, plan.fleets), since_ms, until_ms + BEHIND_MS)
        places = await self._homes(Topic.PLACEMENTS, plan.peers)
        await self._range(plan, places, since_ms, until_ms)
        await self._stragglers(plan, places)

    async def _lead_ms(self, plan: _Plan) -> int:
        """The instant of the oldest state that decisions of the window start from; the window's own start if there is none."""
        newest: dict[ServiceName, int] = {}
        places = await self._homes(Topic.DECISION_STATE, plan.services)
        ranges = {at: (plan.starts[at], plan.ends[at]) for at in places}
        async for batch in scan.between(self._log, ranges):
            for record in batch:
                service = keys.service_of(record.key)
                if service in plan.services and record.value is not None and record.timestamp_ms <= self._wanted.window.from_ms:
                    state = _decoded_state(record.value)
                    if state is not None and state.decision is not None:
                        newest[service] = max(newest.get(service, -1), state.decision.at_ms)
        return min(newest.values(), default=self._wanted.window.from_ms - STATE_BACK_MS) - MARGIN_MS

    async def _range(self, plan: _Plan, places: Sequence[TopicPartition], since_ms: int, until_ms: int) -> None:
        """From the first record stamped at or after `since_ms` to the first one after `until_ms`."""
        begins, ends = await self._log.begin_offsets(places), await self._log.end_offsets(places)
        first = await self._log.offsets_for_time(dict.fromkeys(places, max(0, since_ms)))
        after = await self._log.offsets_for_time(dict.fromkeys(places, until_ms + 1))
        for at in places:
            found, last = first[at], after[at]
            plan.ends[at] = ends[at] if last is None else last
            plan.starts[at] = min(plan.ends[at], ends[at] if found is None else found)
            if begins[at] and plan.starts[at] <= begins[at] < plan.ends[at]:
                oldest = await self._stamp(at, begins[at])
                if oldest is not None and oldest > since_ms:
                    plan.missing[at] = Span(from_ms=max(0, since_ms), to_ms=oldest)

    async def _stamp(self, at: TopicPartition, offset: int) -> int | None:
        async for batch in scan.between(self._log, {at: (offset, offset + 1)}):
            return batch[0].timestamp_ms
        return None

    async def _stragglers(self, plan: _Plan, places: Sequence[TopicPartition]) -> None:
        """The newest placement of each service that said nothing since its range begins: it still holds what it held."""
        begins = await self._log.begin_offsets(places)
        before = {at: (begins[at], plan.starts[at]) for at in places if begins[at] < plan.starts[at]}
        newest: dict[bytes, Record] = {}
        async for batch in scan.between(self._log, before):
            for record in batch:
                if record.key is not None and not keys.is_dry_run(record.key) and keys.service_of(record.key) in plan.peers:
                    newest[record.key] = record
        plan.stragglers = [record for _, record in sorted(newest.items()) if record.value is not None]


def _decoded_state(payload: bytes) -> DecisionState | None:
    try:
        return codec.decode(DecisionState, payload)
    except Rejected:
        return None


def _keeps(plan: _Plan, topic: Topic, record: Record) -> bool:
    """Whether a record of a range belongs to the incident."""
    match topic:
        case Topic.TELEMETRY:
            return record.key is None or keys.service_of(record.key) in plan.services
        case Topic.SIGNALS | Topic.DECISIONS | Topic.DECISION_STATE | Topic.SPECS:
            return keys.service_of(record.key) in plan.services
        case Topic.PLACEMENTS:
            return keys.service_of(record.key) in plan.peers
        case Topic.COMMANDS | Topic.ACTUATIONS:
            return keys.text_of(record.key) in plan.fleets
        case Topic.FLEET:
            return keys.node_of(record.key)[0] in plan.fleets
        case Topic.DEAD_LETTERS:
            return record.key is None or keys.service_of(record.key) in plan.services | plan.fleets


async def _all_records(log: Log, plan: _Plan) -> AsyncIterator[Record]:
    """Everything that will be written, for a first look at the names in it."""
    for record in plan.stragglers:
        yield record
    async for batch in scan.between(log, {at: (start, plan.ends[at]) for at, start in plan.starts.items()}):
        for record in batch:
            yield record


def _readme(about: Manifest) -> str:
    """What a person finds beside the records."""
    return f"""An incident of heteroscale: {", ".join(about.services)}
from {instant_text(about.window.from_ms)} to {instant_text(about.window.to_ms)}, recorded under the prefix {about.prefix}.

    heteroscale incident show THIS_FOLDER
    heteroscale replay THIS_FOLDER
    heteroscale explain THIS_FOLDER --at {instant_text(about.window.to_ms)}

Records as they were recorded, one a line: zstd -dc topics/decisions.v1.jsonl.zst | jq .value
decisions.jsonl has the decisions alone. manifest.json says what was taken from where, and the sha256 of every file.
"""
