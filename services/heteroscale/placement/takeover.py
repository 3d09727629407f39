"""Taking a fleet over: fence, publish what is true but not yet on the log, compare with the log, rebuild if the inventory lost something.

The order matters. The fence first, so that whoever planned before is refused from here on; then what `out` still holds and the log
has not; then the inventory is read; only then is planned.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

from heteroscale.bus import scan
from heteroscale.bus.log import Log, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, InstanceName, ServiceName
from heteroscale.contracts.placements import Placement, PlacementInputs
from heteroscale.placement import crash_points, rebuild, record, state, words
from heteroscale.placement.actuations_topic import ActuationsTopic
from heteroscale.placement.crash_points import CrashPoint, Passing
from heteroscale.placement.draft import Draft
from heteroscale.placement.fleet_topic import FleetTopic
from heteroscale.placement.inventory.entries import FleetImage
from heteroscale.placement.inventory.gang import Verdict
from heteroscale.placement.inventory.protocol import Build, Inventory
from heteroscale.placement.placements_topic import PlacementsTopic
from heteroscale.placement.publisher import Publisher
from heteroscale.placement.rebuild import Remains
from heteroscale.placement.reservation import NotReady
from heteroscale.placement.state import FleetState

LOOKBACK_MS: Final = 3_600_000  # commands are affirmed at least once a minute; an hour is ample to find the newest


@dataclass(frozen=True, slots=True)
class TakeOver:
    """What is needed to take a fleet over. `commands` is the fleet's partition, `actuations` follows the one of the same number."""

    inventory: Inventory
    log: Log
    publisher: Publisher
    fleet_topic: FleetTopic
    placements: PlacementsTopic
    commands: TopicPartition
    actuations: ActuationsTopic
    passing: Passing = crash_points.passed


@dataclass(frozen=True, slots=True)
class Taken:
    """A fleet that is ours now. `rebuilt`: why its inventory had to be built; null if it was as it should be."""

    state: FleetState
    rebuilt: str | None
    published: int


async def take_over(
    with_: TakeOver, fleet: FleetName, haunted: Collection[InstanceName] = (), arriving: Collection[ServiceName] = ()
) -> Taken:
    """The fleet's state under a new fence.

    `haunted` names instances that run though nobody lists them, as the reconciler found; `arriving` services that come from
    another fleet. Raises Retryable; NotReady if another worker was faster.
    """
    fence = await with_.inventory.take_fence(fleet)
    with_.passing(CrashPoint.AFTER_FENCE)
    await with_.fleet_topic.catch_up()
    await with_.placements.catch_up()
    published = await with_.publisher.drain(fleet)
    with_.passing(CrashPoint.AFTER_DRAIN)
    image = await with_.inventory.read(fleet)
    await with_.placements.catch_up()  # a server that forgot since then had answered others, and what they made of it counts
    why = _lost(image, with_.placements, fleet)
    if why is not None:
        await _rebuild(with_, fleet, fence, image)
    elif image is not None and (why := _outdated(image, with_.placements, fleet, haunted, arriving)) is not None:
        await _renew(with_, fleet, fence, image)
    if why is not None:
        published += await with_.publisher.drain(fleet)
        image = await with_.inventory.read(fleet)
    if image is None:
        raise NotReady("the inventory was lost while it was taken over")
    cycle = max(image.cycle, with_.placements.cycles.get(fleet, 0))  # one that only answered dry runs is nowhere but on the log
    taken = state.from_image(fleet, fence, msgspec.structs.replace(image, cycle=cycle))
    published += await republish_behind(with_, taken)
    return Taken(taken, why, published)


def _lost(image: FleetImage | None, placements: PlacementsTopic, fleet: FleetName) -> str | None:
    """Why the inventory cannot be trusted: it is not there, or the log has seen more than it has."""
    if image is None:
        return "never built, or lost"
    for service, newest in placements.of(fleet).items():
        known = image.services.get(service)
        if (newest.gen, newest.seq) > (image.gen, known.seq if known is not None else 0):
            return f"{service} is behind the log"
    return None


def _outdated(
    image: FleetImage, placements: PlacementsTopic, fleet: FleetName, haunted: Collection[InstanceName], arriving: Collection[ServiceName]
) -> str | None:
    """Why an inventory that lost nothing is to go on under another generation all the same; null if it need not."""
    if image.restarted:
        return "the server started anew"
    if haunted:
        return "instances run that nobody lists"
    if arriving:
        return f"{min(arriving)} came from another fleet"
    if gone := rebuild.departed(image, placements.elsewhere(fleet)):
        return f"{min(gone)} went to another fleet"
    return None


def outranked(now: FleetState, placements: PlacementsTopic, services: Iterable[ServiceName]) -> frozenset[ServiceName]:
    """Services of which another fleet's record stands above whatever this generation could write: readers would not take ours."""
    return frozenset(name for name in placements.elsewhere(now.fleet).intersection(services) if placements.newest[name].gen >= now.gen)


async def _rebuild(with_: TakeOver, fleet: FleetName, fence: int, image: FleetImage | None) -> None:
    newest: dict[ServiceName, Placement] = {}
    for service, found in with_.placements.of(fleet).items():
        try:
            newest[service] = found.placement()
        except Rejected as error:
            raise NotReady(f"the newest Placement of {service} cannot be read: {error}") from error
    listed = {one.id for placement in newest.values() for group in placement.groups for one in group.instances}
    await with_.actuations.catch_up()
    heard = with_.actuations.of(fleet)
    remains = Remains(
        fleet=fleet,
        gen=_next_gen(with_, image),
        placements=newest,
        records=with_.fleet_topic.newest(fleet),
        commands=await _commands_of(with_, newest),
        ended=words.ended(heard),
        ghosts=await _ghosts(with_, fleet, listed),
        lineage=await with_.placements.lineage(fleet),
    )
    built = rebuild.image(remains)
    old_gen = image.gen if image is not None else None
    await _switch_in(with_, Build(fleet=fleet, fence=fence, old_gen=old_gen, image=built, placements=rebuild.republished(built, remains)))


async def _renew(with_: TakeOver, fleet: FleetName, fence: int, image: FleetImage) -> None:
    """Everything as it stands under a new generation, above all that are on the log; services that moved away are left out.

    A server that started anew may have forgotten what it had answered: a record of that, published late, has the old generation
    and can never stand beside another one of the same (gen, seq).
    """
    await with_.actuations.catch_up()
    gone = rebuild.departed(image, with_.placements.elsewhere(fleet))
    kept = {name: entry for name, entry in image.services.items() if name not in gone}
    image = msgspec.structs.replace(image, services=kept)
    fresh = rebuild.renewed(image, _next_gen(with_, image), await _ghosts(with_, fleet, image.instances))
    now = state.from_image(fleet, fence, fresh)
    again = [(service, _as_it_stands(service, now)) for service in sorted(fresh.services)]
    await _switch_in(with_, Build(fleet=fleet, fence=fence, old_gen=image.gen, image=fresh, placements=again))


def _next_gen(with_: TakeOver, image: FleetImage | None) -> int:
    return 1 + max(with_.placements.gen(), image.gen if image is not None else 0)


async def _ghosts(with_: TakeOver, fleet: FleetName, listed: Iterable[InstanceName]) -> dict[InstanceName, Placement]:
    """Instances that run and that nobody lists, each with the last Placement that did. Those that none ever listed are not ours."""
    found = words.ghosts(with_.actuations.of(fleet), listed)
    return await with_.placements.every(fleet, found) if found else {}


async def _switch_in(with_: TakeOver, build: Build) -> None:
    with_.passing(CrashPoint.BEFORE_BUILD)
    outcome = await with_.inventory.build(build)
    with_.passing(CrashPoint.AFTER_BUILD)
    if outcome.verdict is not Verdict.APPLIED:
        raise NotReady(f"another worker builds this inventory ({outcome.detail})")


async def _commands_of(with_: TakeOver, newest: dict[ServiceName, Placement]) -> dict[ServiceName, Command]:
    """The Command that each Placement answers, at the first at_ms found: a redelivered affirmation is then newer, and is answered."""
    if not newest:
        return {}
    since_ms = max(0, min(placement.at_ms for placement in newest.values()) - LOOKBACK_MS)
    start = (await with_.log.offsets_for_time({with_.commands: since_ms}))[with_.commands]
    found: dict[ServiceName, Command] = {}
    async for batch in scan.to_end(with_.log, [with_.commands], {with_.commands: start or 0}):
        for one in batch:
            command = _decoded(one.value)
            answered = newest.get(command.service) if command is not None else None
            if command is None or answered is None or command.dry_run or command.service in found:
                continue
            if (command.revision, command.id) == (answered.revision, answered.command_id):
                found[command.service] = command
    return found


async def republish_behind(with_: TakeOver, taken: FleetState) -> int:
    """The log's newest record of a service is older than the inventory though `out` is empty: say it again, as it stands."""
    seen = {name: (found.gen, found.seq) for name, found in with_.placements.of(taken.fleet).items()}
    rows: list[tuple[ServiceName, bytes]] = []
    elsewhere = with_.placements.elsewhere(taken.fleet)
    for service, known in sorted(taken.services.items()):
        if service not in elsewhere and seen.get(service, (0, 0)) < (taken.gen, known.entry.seq):
            rows.append((service, _as_it_stands(service, taken)))
    await with_.publisher.publish(rows)
    return len(rows)


def _as_it_stands(service: ServiceName, now: FleetState) -> bytes:
    """A service's record once more: nothing changed, the inventory's own seq."""
    draft = Draft.of(service, now.services[service])
    inputs = PlacementInputs(cycle=now.cycle)
    return codec.encode(record.real(draft, now.gen, now.now_ms, inputs, seq=draft.seq))


def _decoded(payload: bytes | None) -> Command | None:
    try:
        return codec.decode(Command, payload) if payload is not None else None
    except Rejected:
        return None
