"""Messages for tests, with defaults for all that a test does not care about."""

from __future__ import annotations

import msgspec

from heteroscale.bus.log import Entry
from heteroscale.contracts import codec, keys
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.commands import Command, CommandRole
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.placements import (
    Domain,
    Group,
    InstanceState,
    PlacedInstance,
    Placement,
    PlacementStatus,
    Pool,
)
from heteroscale.contracts.spec import GpuChoice
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples
from heteroscale.contracts.topics import Topic, topic_name

AT_MS = 1_700_000_000_000


def sample(instance: str = "i1", *, at_ms: int = AT_MS, role: str = "decode", tokens: float | None = None) -> InstanceSample:
    """One serving instance."""
    return InstanceSample(instance=instance, role=role, state=EngineState.SERVING, at_ms=at_ms, generation_tokens=tokens)


def samples(service: str = "chat", *some: InstanceSample) -> Samples:
    """A telemetry record."""
    return Samples(service=service, source="test", samples=list(some) or [sample()])


def instance(
    name: str = "p1", *, role: str = "prefill", state: InstanceState = InstanceState.RESERVED, routable: bool = False
) -> PlacedInstance:
    """A placed instance on a node of its own."""
    return PlacedInstance(id=name, role=role, gpu_type="H20", nodes={f"n-{name}": 8}, state=state, since_ms=AT_MS, routable=routable)


def placement(service: str = "chat", *instances: PlacedInstance, seq: int | None = 1, gen: int = 1, at_ms: int = AT_MS) -> Placement:
    """A service's assignment; `seq` null makes it the answer to a dry run."""
    groups = [Group(id="g1", domain=Domain(cluster="c1", s2="A"), pool=Pool.LOW, instances=list(instances))] if instances else []
    return Placement(
        service=service,
        fleet="default",
        revision=1,
        command_id=DecisionId("c" * 16),
        seq=seq,
        gen=gen,
        at_ms=at_ms,
        status=PlacementStatus.PROGRESSING,
        groups=groups,
        dry_run=seq is None,
    )


def command(service: str = "chat", *, revision: int = 1, at_ms: int = AT_MS, prefill: int = 1, dry_run: bool = False) -> Command:
    """A command for one prefill to two decode."""
    roles = {
        "prefill": CommandRole(replicas=prefill, gpus=8, gpu_types=[GpuChoice(type="H20")]),
        "decode": CommandRole(replicas=2 * prefill, gpus=8, gpu_types=[GpuChoice(type="H20")]),
    }
    identity = DecisionId(f"{revision:016x}")
    return Command(
        id=identity,
        revision=revision,
        service=service,
        fleet="default",
        at_ms=at_ms,
        decision_id=identity,
        roles=roles,
        dry_run=dry_run,
    )


def actuation(name: str = "p1", kind: ActuationKind = ActuationKind.READY, *, at_ms: int = AT_MS) -> Actuation:
    """An acknowledgement."""
    return Actuation(service="chat", fleet="default", instance=name, at_ms=at_ms, kind=kind, actuator="test")


def entry(prefix: str, topic: Topic, key: str, message: msgspec.Struct, at_ms: int = AT_MS) -> Entry:
    """A message as a record to append."""
    return Entry(topic_name(prefix, topic), key.encode(), codec.encode(message), at_ms)


def placement_entry(prefix: str, message: Placement) -> Entry:
    """A placement as placement writes it: a dry run under a key of its own, in the service's partition."""
    key = keys.dry_run_key(message.service).decode() if message.dry_run else message.service
    return entry(prefix, Topic.PLACEMENTS, key, message, message.at_ms)
