"""(commands.v1, actuations.v1, fleet.v1) → placements.v1, again: cycle by cycle, each with the cut and the conflicts it recorded.

A fleet starts from nothing where its history is in the bundle, else from the newest placements before the lead-in, which is
replayed to warm up and not compared. A new generation (the inventory was lost) is rebuilt from the recorded placements, as then.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterable, Iterator, Mapping
from dataclasses import replace

import msgspec

from heteroscale.bus import partitioning
from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Broken, HeteroscaleError
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.names import FleetName, InstanceName, NodeName, ServiceName
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import CATALOGUE, Topic
from heteroscale.contracts.units import instant_text
from heteroscale.placement import lineage, rebuild, reservation, state, words
from heteroscale.placement.fold import CycleInput, Event
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.placement.inventory.protocol import Build
from heteroscale.placement.nodes import NodeChange
from heteroscale.placement.rebuild import Remains
from heteroscale.placement.state import FleetState
from heteroscale.replay import aliases, differ, standing
from heteroscale.replay.cycles import Cycle, Output, RecordedInventory, cycles
from heteroscale.replay.recorded import Found, Recorded, Shelf, in_order
from heteroscale.replay.verdict import Divergence, Gap, Outcome, StageResult


def verify(recorded: Recorded, result: StageResult, *, restart_every: int | None = None) -> StageResult:
    """Every placement of the bundle's window, byte for byte."""
    for fleet in recorded.fleets():
        _run_alone(_Fleet(recorded, fleet, result, restart_every).run())
    return result


def _run_alone(work: Coroutine[None, None, None]) -> None:
    """Run a coroutine that has nothing to wait for: the inventory in memory answers at once, so no event loop is needed."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise Broken("a replayed cycle waited for something")


class _Fleet:
    """One fleet through its cycles."""

    def __init__(self, recorded: Recorded, fleet: FleetName, result: StageResult, restart_every: int | None) -> None:
        self._recorded = recorded
        self._fleet = fleet
        self._result = result
        self._restart_every = restart_every
        bundle = recorded.bundle
        partition = partitioning.partition_of(fleet.encode(), CATALOGUE[Topic.COMMANDS].partitions)
        self._commands_at = bundle.at(Topic.COMMANDS, partition)
        self._actuations_at = bundle.at(Topic.ACTUATIONS, partition)
        self._fleet_at = bundle.at(Topic.FLEET, 0)
        self._inventory = RecordedInventory()
        self._newest: dict[ServiceName, Placement] = {}
        self._aliased = "instance" in bundle.manifest.redactions.pseudonyms
        self._known_nodes: tuple[int, dict[NodeName, NodeChange]] = (0, {})

    async def run(self) -> None:
        """All cycles; stops at a divergence, since what follows would repeat it."""
        span = self._recorded.bundle.manifest.window
        coming = cycles(self._recorded, self._fleet)
        cycle = next(coming, None)
        if cycle is None:
            return
        whole = cycle.gen == 1 and all(key[1] or key[2] == 1 for key in cycle.outputs)
        if whole:
            now, cut = await self._built(cycle.gen, {}, cycle.cut, None), dict[str, int]()
        else:
            cycle, now, cut = await self._begin(cycle, coming)
        index = 0
        while cycle is not None and cycle.at_ms <= span.to_ms:
            index += 1
            after = next(coming, None)
            compared = whole or span.from_ms <= cycle.at_ms
            if cycle.gen != now.gen and self._is_restated(cycle):
                now = await self._rebuilt(cycle, after)
                self._take_restated(cycle, now, compared=compared)
                cycle = after
                continue
            if cycle.gen != now.gen:
                now = await self._renewed(now, cycle, cut)
            gap = self._gap(cut, cycle.cut)
            if gap is not None:
                self._result.gaps.append(gap)
                return
            outputs: dict[Output, Placement] = {}
            try:
                now, outputs = await self._cycle(now, cycle, cut)
            except HeteroscaleError as error:
                self._result.notes.append(f"cycle {cycle.number} of {self._fleet} could not be carried out: {error}")
            if compared and not self._compare(cycle, outputs):
                return
            cut = {place: max(offset, cut.get(place, 0)) for place, offset in {**cut, **cycle.cut}.items()}
            self._remember(cycle)
            if self._restart_every is not None and index % self._restart_every == 0:
                now = await self._restarted(now)
            cycle = after

    async def _begin(self, first: Cycle, coming: Iterator[Cycle]) -> tuple[Cycle | None, FleetState, dict[str, int]]:
        """Go on until each service has been heard of, and start there; the cycle after it, the state and the cut."""
        placements = self._stragglers(first)
        services = set(standing.services_of(self._recorded, self._fleet))
        last: Cycle = first
        self._remember(first)
        following = next(coming, None)
        while following is not None and (services - placements.keys() - self._newest.keys()) and following.gen == first.gen:
            self._remember(following)
            last, following = following, next(coming, None)
        self._result.notes.append(f"{self._fleet} starts from its placements of {instant_text(last.at_ms)}")
        return following, await self._built(last.gen, {**placements, **self._newest}, last.cut, last.number), dict(last.cut)

    def _stragglers(self, first: Cycle) -> dict[ServiceName, Placement]:
        """Newest placements from before the lead-in."""
        found: dict[ServiceName, Placement] = {}
        for one in self._recorded.placements_by_cycle(self._fleet):
            placement = one.message
            if placement.inputs is None or (placement.gen, placement.inputs.cycle) >= (first.gen, first.number):
                break
            if not placement.dry_run:
                found[placement.service] = placement
        return found

    async def _built(self, gen: int, placements: Mapping[ServiceName, Placement], cut: Mapping[str, int], number: int | None) -> FleetState:
        """The inventory as a take-over builds it from these placements."""
        listed = {one.id for placement in placements.values() for group in placement.groups for one in group.instances}
        remains = Remains(
            fleet=self._fleet,
            gen=gen,
            placements=placements,
            records=self._nodes(cut.get(self._fleet_at, 0)),
            commands=standing.answered(self._recorded, placements),
            ended=words.ended(self._heard(cut.get(self._actuations_at, 0))),
            ghosts=self._ghosts(listed, cut.get(self._actuations_at, 0)),
            lineage=lineage.of(one.message for one in self._recorded.placements if self._is_before(one.message, gen, number)),
        )
        image = rebuild.image(remains)
        if number is not None:
            services = {name: standing.as_of(self._recorded, entry, placements[name]) for name, entry in image.services.items()}
            image = msgspec.structs.replace(image, cycle=number, services=services)
        old = await self._inventory.read(self._fleet)
        return await self._put(image, None if old is None else old.gen, None)

    async def _put(self, image: FleetImage, old_gen: int | None, now: FleetState | None) -> FleetState:
        """An image in the inventory's place (`old_gen`: the generation it follows), and the state as a new owner reads it."""
        fence = await self._inventory.take_fence(self._fleet)
        await self._inventory.build(Build(fleet=self._fleet, fence=fence, old_gen=old_gen, image=image))
        return await self._restarted(now)

    async def _read(self) -> FleetImage:
        """The inventory as it stands, once it was built."""
        image = await self._inventory.read(self._fleet)
        assert image is not None  # noqa: S101 - it was built here
        return image

    def _is_before(self, placement: Placement, gen: int, number: int | None) -> bool:
        """Whether a record is from before a generation, or (`number`) no later than a cycle of it."""
        if placement.fleet != self._fleet or placement.inputs is None:
            return False
        return placement.gen < gen or (number is not None and placement.gen == gen and placement.inputs.cycle <= number)

    async def _restarted(self, now: FleetState | None) -> FleetState:
        """The state as a new owner reads it."""
        image = await self._read()
        fence = await self._inventory.take_fence(self._fleet)
        fresh = state.from_image(self._fleet, fence, image)
        return fresh if now is None else replace(fresh, now_ms=max(now.now_ms, fresh.now_ms), cycle=now.cycle)

    async def _rebuilt(self, cycle: Cycle, after: Cycle | None) -> FleetState:
        """A new generation: rebuilt from what placements said until then."""
        cut = after.cut if after is not None else cycle.cut
        return await self._built(cycle.gen, self._newest, {**cut, self._actuations_at: cycle.cut.get(self._actuations_at, 0)}, None)

    async def _renewed(self, now: FleetState, cycle: Cycle, cut: Mapping[str, int]) -> FleetState:
        """A new generation of the inventory as it stood: its server had started anew and had kept everything."""
        image = await self._read()
        ghosts = self._ghosts(image.instances, cut.get(self._actuations_at, 0))
        return await self._put(rebuild.renewed(image, cycle.gen, ghosts), image.gen, now)

    def _is_restated(self, cycle: Cycle) -> bool:
        """Whether a cycle's outputs are the assignments that a rebuild publishes again, with the inputs they had."""
        return all(
            not key[1] and key[0] in self._newest and found.message.seq == self._newest[key[0]].seq and not found.message.changes
            for key, found in cycle.outputs.items()
        )

    def _take_restated(self, cycle: Cycle, now: FleetState, *, compared: bool) -> None:
        for key, found in sorted(cycle.outputs.items()):
            groups = list(now.services[key[0]].groups)
            again = msgspec.structs.replace(self._newest[key[0]], gen=cycle.gen, groups=groups, changes=[])
            if compared:
                self._judge(key, found, again)
        self._remember(cycle)

    async def _cycle(self, now: FleetState, cycle: Cycle, since: Mapping[str, int]) -> tuple[FleetState, dict[Output, Placement]]:
        """One cycle again; what it gives."""
        self._inventory.refusals = cycle.conflicts()
        waiting = await self._inventory.outbox(self._fleet)
        await self._inventory.acknowledge(self._fleet, [entry.entry for entry in waiting])
        given = CycleInput(self._events(since, cycle.cut), cycle.number, cycle.cut)
        carried = await reservation.carry_out(self._inventory, now, given, self._nodes(cycle.cut.get(self._fleet_at, 0)))
        outputs: dict[Output, Placement] = {}
        for gang, _ in carried.applied:
            placement = codec.decode(Placement, gang.payload)
            outputs[(placement.service, False, placement.seq or 0)] = placement
        for answer in carried.answers:
            outputs[(answer.service, True, answer.at_ms)] = answer
        if self._aliased:
            return await self._under_pseudonyms(carried.state, cycle, outputs)
        return carried.state, outputs

    async def _under_pseudonyms(
        self, now: FleetState, cycle: Cycle, outputs: dict[Output, Placement]
    ) -> tuple[FleetState, dict[Output, Placement]]:
        """Outputs and inventory with the recorded pseudonyms of the instances that the cycle gave birth to."""
        names: dict[InstanceName, InstanceName] = {}
        for key, replayed in sorted(outputs.items()):
            if key in cycle.outputs:
                names |= aliases.found(cycle.outputs[key].message, replayed)
        if not names:
            return now, outputs
        image = await self._read()
        renamed = await self._put(aliases.image(image, names), image.gen, now)
        return renamed, {key: aliases.placement(one, names) for key, one in outputs.items()}

    def _events(self, since: Mapping[str, int], until: Mapping[str, int]) -> list[Event]:
        """Commands and acknowledgements between two cuts, in the order in which a batch is taken."""
        lanes: tuple[Shelf[Command] | Shelf[Actuation], ...] = (
            self._recorded.commands_of(*self._range(self._commands_at, since, until)),
            self._recorded.actuations_of(*self._range(self._actuations_at, since, until)),
        )
        messages: dict[tuple[str, int], Event] = {}
        records: list[Record] = []
        for lane in lanes:
            for one in lane:
                records.append(one.record)
                messages[one.record.topic, one.record.offset] = one.message
        return [messages[record.topic, record.offset] for record in in_order(records)]

    def _range(self, place: str, since: Mapping[str, int], until: Mapping[str, int]) -> tuple[FleetName, int, int]:
        return self._fleet, since.get(place, 0), until.get(place, 0)

    def _nodes(self, until: int) -> dict[NodeName, NodeChange]:
        """The newest record of each node below an offset of fleet.v1."""
        since, known = self._known_nodes
        if until < since:
            since, known = 0, {}
        for node, record in self._recorded.fleet(self._fleet, since, until):
            value = None if record.value is None else codec.decode(FleetNode, record.value)
            known[node] = NodeChange(node=node, record=value, revision=record.offset)
        self._known_nodes = (max(since, until), known)
        return dict(known)

    def _heard(self, until: int) -> dict[InstanceName, Actuation]:
        """The word that counts of each instance, below an offset of actuations.v1."""
        heard: dict[InstanceName, Actuation] = {}
        for one in self._recorded.actuations_of(self._fleet, 0, until):
            heard[one.message.instance] = words.last(one.message, heard.get(one.message.instance))
        return heard

    def _ghosts(self, listed: Iterable[InstanceName], until: int) -> dict[InstanceName, Placement]:
        """Instances last heard to run that nobody lists, each with the last placement that did."""
        lost = frozenset(words.ghosts(self._heard(until), listed))
        found: dict[InstanceName, Placement] = {}
        for one in self._recorded.placements if lost else ():
            for group in one.message.groups:
                found |= {placed.id: one.message for placed in group.instances if placed.id in lost and one.message.fleet == self._fleet}
        return found

    def _gap(self, since: Mapping[str, int], until: Mapping[str, int]) -> Gap | None:
        """A cut beyond what the bundle holds, or a start before it."""
        for place, topic in ((self._commands_at, Topic.COMMANDS), (self._actuations_at, Topic.ACTUATIONS), (self._fleet_at, Topic.FLEET)):
            part = self._recorded.bundle.parts(topic).get(int(place.rpartition("-")[2]))
            if part is None or until.get(place, 0) > part.next_offset:
                return Gap(f"{place}@{until.get(place, 0) - 1}", "a cycle had read it; the bundle ends before")
            if since.get(place, 0) < part.from_offset and part.from_offset > 0 and until.get(place, 0) > since.get(place, 0):
                return Gap(f"{place}@{since.get(place, 0)}", f"a cycle had read on from it; the bundle begins at {part.from_offset}")
        return None

    def _remember(self, cycle: Cycle) -> None:
        for _, found in sorted(cycle.outputs.items()):
            if not found.message.dry_run:
                self._newest[found.message.service] = found.message

    def _compare(self, cycle: Cycle, outputs: Mapping[Output, Placement]) -> bool:
        """Whether the cycle gave what was recorded."""
        equal = True
        for key, found in sorted(cycle.outputs.items()):
            equal &= self._judge(key, found, outputs.get(key))
        for key in sorted(outputs.keys() - cycle.outputs.keys()):
            what = f"{key[0]}, cycle {cycle.number}, is placed now and was not recorded"
            place = self._recorded.bundle.name(Topic.PLACEMENTS)
            self._result.differs(Divergence(self._result.compared + 1, place, what, Outcome.DIVERGED, (), (), key[0], cycle.at_ms))
            equal = False
        return equal

    def _judge(self, key: Output, found: Found[Placement], again: Placement | None) -> bool:
        number = self._result.compared + 1
        what = f"{key[0]}{' (dry run)' if key[1] else ''} {instant_text(found.message.at_ms)}, seq {found.message.seq}"
        if again is not None and (codec.encode(again) == found.record.value or again == found.message):
            self._result.same()
            return True
        if again is None:
            differences = [differ.Difference("placement", f"seq {found.message.seq}", differ.ABSENT)]
        else:
            differences = differ.of_messages(found.message, again)
        outcome = Outcome.OTHER_REASON if again is not None and again.groups == found.message.groups else Outcome.DIVERGED
        self._result.differs(Divergence(number, found.place, what, outcome, differences, (), key[0], found.message.at_ms))
        return False
