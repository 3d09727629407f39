"""What a decision worker knows: specs, and the state of every service in the partitions it holds; how both are read from the log."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Iterable, Sequence

import msgspec

from heteroscale.bus import partitioning, scan
from heteroscale.bus.dead_letters import Guard
from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec, keys
from heteroscale.contracts.decision_state import DecisionState
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState, Source

STATES_TRIED = 2  # of each service: the newest, and the one before if that cannot be read


class Memory:
    """Specs of all services, states by partition. Reads; what it cannot read goes to the guard's dead letters."""

    def __init__(self, log: Log, prefix: str, guard: Guard) -> None:
        self._log = log
        self._guard = guard
        self._signals = topic_name(prefix, Topic.SIGNALS)
        self._placements = topic_name(prefix, Topic.PLACEMENTS)
        self._states = topic_name(prefix, Topic.DECISION_STATE)
        self._partitions = CATALOGUE[Topic.SIGNALS].partitions
        self.specs: dict[str, tuple[ServiceSpec, Source]] = {}
        self.states: dict[str, ServiceState] = {}
        self.held: set[int] = set()
        self._whole: set[int] = set()

    def partition_of(self, service: str) -> int:
        """The partition that signals, placements and states of a service share."""
        return partitioning.partition_of(service.encode(), self._partitions)

    def state_of(self, service: str) -> ServiceState:
        """The state of a service with the spec in force; a new one if there is none."""
        state = self.states.get(service) or ServiceState(service)
        known = self.specs.get(service)
        if known is None:
            return state if state.spec is None else msgspec.structs.replace(state, spec=None)
        spec, source = known
        if state.spec is spec:
            return state
        state, _ = controller.step(state, spec)
        return msgspec.structs.replace(state, inputs={**state.inputs, source.at: source.next_offset})

    def decided_ms(self, service: str) -> int:
        """End of the last window that was decided of a service with a spec; negative without any."""
        state = self.states.get(service)
        return -1 if state is None or service not in self.specs else state.law.window_end_ms

    def decided(self) -> list[DecisionState]:
        """Records of the services with a spec, by service."""
        return [self.states[service].record() for service in sorted(self.states) if service in self.specs]

    def drop(self) -> None:
        """All partitions were given up."""
        self.states.clear()
        self.held.clear()
        self._whole.clear()

    async def take_over(self, partitions: Iterable[int]) -> dict[TopicPartition, int]:
        """Read states, then placements to their ends. Where to go on: signals and placements of each partition.

        A partition of which nothing is known starts where the group committed.
        """
        self.drop()
        self.held = set(partitions)
        await self._read_states()
        start = {at: offset for at in self._at(self._placements) if (offset := self._lowest(at)) is not None}
        self._whole = {at.partition for at in self._at(self._placements) if start.get(at, 0) == 0}
        positions = await self._read_placements(self._at(self._placements), start)
        lowest = {at: self._lowest(at) for at in self._at(self._signals)}
        return positions | {at: offset for at, offset in lowest.items() if offset is not None}

    async def complete(self, service: str) -> None:
        """Before a service without a state is decided for the first time: what placements.v1 has ever said of it."""
        partition = self.partition_of(service)
        if partition not in self._whole:
            await self._read_placements([TopicPartition(self._placements, partition)], {}, unknown_only=True)
            self._whole.add(partition)

    def _at(self, topic: str) -> list[TopicPartition]:
        return [TopicPartition(topic, partition) for partition in sorted(self.held)]

    def _lowest(self, at: TopicPartition) -> int | None:
        """The lowest next offset among the partition's services that have a spec and were decided before; null without any."""
        decided = [s for s in self.states.values() if s.decision is not None and s.service in self.specs]
        offsets = [state.inputs.get(str(at), 0) for state in decided if self.partition_of(state.service) == at.partition]
        return min(offsets, default=None)

    async def _read_states(self) -> None:
        """The newest state of each service. One that cannot be read is refused, and the one before it stands in: its windows follow again.

        Without either, a service starts from its placements, as a new one does.
        """
        last: dict[bytes, deque[Record]] = {}
        async for batch in scan.to_end(self._log, self._at(self._states)):
            for record in batch:
                if record.key is not None and not keys.is_hourly(record.key):
                    last.setdefault(record.key, deque(maxlen=STATES_TRIED)).append(record)
        for key in sorted(last):
            found = await self._newest_of(last[key])
            if found is not None:
                self.states[found.service] = controller.from_record(found, None)

    async def _newest_of(self, records: Sequence[Record]) -> DecisionState | None:
        """The newest that can be read; null for none and after a tombstone."""
        for record in reversed(records):
            if record.value is None:
                return None
            found = await self._guard.use(record, functools.partial(_state_of, record.key or b""))
            if found is not None:
                return found
        return None

    async def _read_placements(
        self,
        partitions: list[TopicPartition],
        start: dict[TopicPartition, int],
        *,
        unknown_only: bool = False,
    ) -> dict[TopicPartition, int]:
        """Fold placements up to their ends as they are now; the ends. Records that cannot be read are left for the poll to refuse."""
        ends = await self._log.end_offsets(partitions)
        latest: dict[tuple[str, bool], tuple[Placement, Source]] = {}
        async for batch in scan.to_end(self._log, partitions, start):
            for record in batch:
                placement = _placement_of(record)
                if placement is None:
                    continue
                source = Source(str(record.at), record.offset + 1)
                state = self.states.get(placement.service)
                if state is not None and state.decision is not None and not unknown_only:
                    self.states[placement.service], _ = controller.step(state, placement, source)  # all, as without a take-over
                else:
                    self._keep(latest, placement, source)
        for (service, _), (placement, source) in sorted(latest.items(), key=lambda item: item[0]):
            state = self.states.get(service)
            if unknown_only and state is not None and state.law.adopted_at_ms is not None:
                continue
            state, _ = controller.step(state or ServiceState(service), placement)
            offset = max(source.next_offset, state.inputs.get(source.at, 0))
            self.states[service] = msgspec.structs.replace(state, inputs={**state.inputs, source.at: offset})
        return ends

    @staticmethod
    def _keep(latest: dict[tuple[str, bool], tuple[Placement, Source]], placement: Placement, source: Source) -> None:
        """The newest of each kind, by (gen, seq); of answers to dry runs the newest in time."""
        key = (placement.service, placement.dry_run)
        known = latest.get(key)
        if known is None or _rank(placement) >= _rank(known[0]):
            latest[key] = (placement, source)


def _state_of(key: bytes, payload: bytes) -> DecisionState:
    """A state under its own key. Raises Rejected."""
    state = codec.decode(DecisionState, payload)
    if state.service.encode() != key:
        raise Rejected("key", f"the key says {keys.text_of(key)}, the value {state.service}")
    return state


def _rank(placement: Placement) -> tuple[int, int]:
    return (0, placement.at_ms) if placement.dry_run else (placement.gen, placement.seq or 0)


def _placement_of(record: Record) -> Placement | None:
    if record.value is None:
        return None
    try:
        return codec.decode(Placement, record.value)
    except Rejected:
        return None
