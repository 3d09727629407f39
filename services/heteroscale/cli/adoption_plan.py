"""Which running instances of a service nobody reserved, from telemetry, and the Command that would bring them in."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import Final

import msgspec

from heteroscale.bus import scan
from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Adoption, Command, CommandRole
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import DecisionId, FleetName, ServiceName, short_hash
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.spec import GpuChoice
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import Topic, topic_name

RECENT_MS: Final = 120_000  # what was silent for two minutes is not taken for running
RUNNING: Final = frozenset({EngineState.LOADING, EngineState.SERVING})


class Proposed(msgspec.Struct, frozen=True, kw_only=True):
    """The command, and running instances that cannot be adopted, each with the reason."""

    command: Command
    left_out: Mapping[str, str]


async def propose(log: Log, prefix: str, service: ServiceName, fleet: FleetName | None) -> Proposed:
    """The adopting command: revision + 1, replicas raised by the adopted, at the newest tick. Raises Rejected without telemetry."""
    seen, now_ms = await _running(log, prefix, service)
    placement = await newest_placement(log, prefix, service)
    base = await newest_command(log, prefix, service)
    known_fleet = fleet or (placement.fleet if placement else None) or (base.fleet if base else None)
    if known_fleet is None:
        raise Rejected("unknown_service", f"{service!r} has neither a command nor a placement; say --fleet NAME")
    listed = {one.id for group in placement.groups for one in group.instances} if placement else set()
    adopted: list[Adoption] = []
    left_out: dict[str, str] = {}
    for name, sample in sorted(seen.items()):
        if name in listed:
            continue
        if sample.node is None or sample.gpus is None or sample.gpu_type is None:
            left_out[name] = "its telemetry does not say node, gpus and gpu_type"
        else:
            nodes = {sample.node: sample.gpus}
            adopted.append(Adoption(instance=name, role=sample.role, gpu_type=sample.gpu_type, nodes=nodes, group=sample.group))
    return Proposed(command=_command(service, known_fleet, base, placement, adopted, now_ms), left_out=left_out)


async def newest_placement(log: Log, prefix: str, service: ServiceName, *, dry_runs: bool = False) -> Placement | None:
    """The newest real Placement; with `dry_runs`, a dry-run answer where that is newer."""
    found: Placement | None = None
    async for record in _records(log, prefix, Topic.PLACEMENTS):
        if record.key is None or record.key.decode().partition("#")[0] != service or record.value is None:
            continue
        placement = codec.decode(Placement, record.value)
        if placement.dry_run:
            if dry_runs and (found is None or placement.at_ms > found.at_ms):
                found = placement
        elif found is None or found.dry_run or (placement.gen, placement.seq or 0) > (found.gen, found.seq or 0):
            found = placement
    return found


def _command(
    service: ServiceName,
    fleet: FleetName,
    base: Command | None,
    placement: Placement | None,
    adopted: list[Adoption],
    now_ms: int,
) -> Command:
    revision = 1 + max(base.revision if base else 0, placement.revision if placement else 0)
    identity = DecisionId(short_hash(f"adopt|{service}|{revision}|{now_ms}"))
    counted = Counter(one.role for one in adopted)
    roles = {} if base is None or base.dry_run else dict(base.roles)
    for role in sorted(counted):
        sample = next(one for one in adopted if one.role == role)
        shape = roles.get(role) or (base.roles.get(role) if base else None)
        if shape is None:
            shape = CommandRole(replicas=0, gpus=sum(sample.nodes.values()), gpu_types=[GpuChoice(type=sample.gpu_type)])
        elif role not in roles:
            shape = msgspec.structs.replace(shape, replicas=0, draining=0)
        roles[role] = msgspec.structs.replace(shape, replicas=shape.replicas + counted[role])
    fresh = Command(id=identity, revision=revision, service=service, fleet=fleet, at_ms=now_ms, decision_id=identity, roles={})
    shape_of = base if base is not None else fresh
    return msgspec.structs.replace(
        shape_of,
        id=identity,
        revision=revision,
        fleet=fleet,
        at_ms=now_ms,
        decision_id=identity,
        roles=dict(sorted(roles.items())),
        adopt=adopted,
        dry_run=False,
    )


async def _running(log: Log, prefix: str, service: ServiceName) -> tuple[dict[str, InstanceSample], int]:
    """Instances that were heard to run lately, and the newest tick."""
    partitions = await scan.partitions_of(log, [topic_name(prefix, Topic.TELEMETRY)])
    ends = await log.end_offsets(partitions)
    start: dict[TopicPartition, int] = {at: max(0, end - 100_000) for at, end in ends.items()}
    newest: dict[str, InstanceSample] = {}
    now_ms = 0
    async for batch in scan.to_end(log, partitions, start):
        for record in batch:
            try:
                message = codec.decode(Samples | Tick, record.value or b"")  # type: ignore[arg-type] # a union is a type to msgspec
            except Rejected:
                continue
            if isinstance(message, Tick):
                now_ms = max(now_ms, message.at_ms)
            elif isinstance(message, Samples) and message.service == service:
                for sample in message.samples:
                    if sample.instance not in newest or sample.at_ms >= newest[sample.instance].at_ms:
                        newest[sample.instance] = sample
    if not newest or not now_ms:
        raise Rejected("no_telemetry", f"no telemetry of {service!r} and ticks; is the signals service running?")
    recent = {name: one for name, one in newest.items() if one.state in RUNNING and one.at_ms >= now_ms - RECENT_MS}
    return recent, now_ms


async def newest_command(log: Log, prefix: str, service: ServiceName) -> Command | None:
    """The newest real Command of a service; where there is none, the newest recommendation of shadow mode."""
    found: Command | None = None
    async for record in _records(log, prefix, Topic.COMMANDS):
        if record.value is None:
            continue
        try:
            command = codec.decode(Command, record.value)
        except Rejected:
            continue
        if command.service != service:
            continue
        real_over_dry = found is not None and found.dry_run and not command.dry_run
        if found is None or real_over_dry or (command.dry_run == found.dry_run and _order(command) > _order(found)):
            found = command
    return found


def _order(command: Command) -> tuple[int, int, str]:
    return command.revision, command.at_ms, command.id


async def _records(log: Log, prefix: str, topic: Topic) -> AsyncIterator[Record]:
    async for batch in scan.to_end(log, await scan.partitions_of(log, [topic_name(prefix, topic)])):
        for record in batch:
            yield record
