"""One decision, backwards to the samples it was made from and forwards to the nodes it led to. Every step with its place on the log."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Final

import msgspec

from heteroscale.bus.log import Record
from heteroscale.contracts import codec, keys
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import GpuTypeName, InstanceName, NodeName, RoleName, ServiceName
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.telemetry import InstanceSample, Samples
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import instant_text
from heteroscale.replay.recorded import Found, Recorded
from heteroscale.replay.store import place_of

SHOWN: Final = 12  # ids that a message lists


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What one instance said inside the window's offsets. Tokens are the counters' increase between its first and last sample."""

    instance: InstanceName
    role: RoleName
    node: NodeName | None
    gpu_type: GpuTypeName | None
    samples: int
    first: str
    last: str
    decode_tokens: float | None
    prompt_tokens: float | None


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """One transition that followed, and where the instance is."""

    at_ms: int
    place: str
    instance: InstanceName
    role: RoleName | None
    before: InstanceState | None
    after: InstanceState | None
    reason: str
    nodes: list[NodeName]


class Said(msgspec.Struct, frozen=True, kw_only=True):
    """An acknowledgement."""

    at_ms: int
    place: str
    instance: InstanceName
    kind: str


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """The whole chain. Places are `topic/partition@offset`."""

    decision: Decision
    decision_at: str
    state_at: str | None
    spec_at: str | None
    window_at: str | None
    window: dict[RoleName, RoleSignal]
    window_closed_by: str | None
    heard: list[Heard]
    placements_read: list[str]
    commands: list[str]
    answers: list[str]
    moved: list[Moved]
    said: list[Said]
    ended: str


def find(recorded: Recorded, text: str) -> Found[Decision]:
    """A decision by its id, which may be shortened. Raises Rejected (`no_decision`, `ambiguous`)."""
    wanted = text.removeprefix("d-")
    known = {one.message.id: one for one in recorded.decisions_like(wanted)}
    hits = list(known.values())
    if not hits:
        raise Rejected("no_decision", "no decision in this bundle begins so; heteroscale incident show lists the moves", text)
    if len(hits) > 1:
        told = f"{', '.join(sorted(known)[:SHOWN])}{', …' if len(known) > SHOWN else ''}"
        raise Rejected("ambiguous", f"{len(hits)} decisions begin so: {told}", text)
    return hits[0]


def in_force(recorded: Recorded, at_ms: int, service: ServiceName | None) -> list[Found[Decision]]:
    """The decision of each service (or of one) that was in force at an instant. Raises Rejected (`no_decision`)."""
    names = [service] if service is not None else sorted(recorded.decisions)
    found = []
    last_ms = recorded.last_ms
    if at_ms > last_ms:
        raise Rejected("no_decision", f"is after this bundle, which ends at {instant_text(last_ms)}", instant_text(at_ms))
    for name in names:
        if name not in recorded.decisions:
            raise Rejected("unknown_service", f"is not in this bundle; it has {', '.join(sorted(recorded.decisions))}", name)
        before = recorded.decisions_until(name, at_ms).first
        if before is not None:
            found.append(before)
    if not found:
        first = min((known[0].message.at_ms for known in recorded.decisions.values()), default=0)
        raise Rejected("no_decision", f"nothing was decided yet; the first decision here is of {instant_text(first)}", instant_text(at_ms))
    return found


def explain(recorded: Recorded, found: Found[Decision]) -> Explanation:
    """The chain of one decision."""
    decision = found.message
    service = decision.service
    window = _window_of(recorded, decision)
    state = recorded.state_of(service, decision.at_ms)
    commands = [one for one in recorded.commands_to(service) if one.message.decision_id == decision.id]
    answers = list(_answers(recorded, decision))
    moved = [one for answer in answers for one in _moves(answer)]
    born = {one.instance for one in moved}
    first_answer_ms = min((answer.message.at_ms for answer in answers), default=decision.at_ms)
    said = [
        Said(at_ms=one.message.at_ms, place=one.place, instance=one.message.instance, kind=one.message.kind.value)
        for one in recorded.actuations
        if one.message.instance in born and one.message.at_ms >= first_answer_ms
    ]
    return Explanation(
        decision=decision,
        decision_at=found.place,
        state_at=None if state is None else state.place,
        spec_at=_spec_at(recorded, decision),
        window_at=None if window is None else window.place,
        window={} if window is None else window.message.roles,
        window_closed_by=None if window is None else _closed_by(recorded, window.message),
        heard=[] if window is None else _heard(recorded, window.message),
        placements_read=_placements_read(recorded, decision),
        commands=[one.place for one in commands],
        answers=[answer.place for answer in answers],
        moved=moved,
        said=sorted(said, key=lambda one: (one.at_ms, one.place)),
        ended=_ended(recorded, decision, answers),
    )


def _window_of(recorded: Recorded, decision: Decision) -> Found[SignalWindow] | None:
    return recorded.windows_between(decision.service, decision.at_ms - 1, decision.at_ms).first


def _spec_at(recorded: Recorded, decision: Decision) -> str | None:
    cut = next((offset for at, offset in decision.inputs.items() if Topic.SPECS.value in at), None)
    known = [record for record, _ in recorded.specs.get(decision.service, ()) if cut is None or record.offset < cut]
    return place_of(known[-1]) if known else None


def _closed_by(recorded: Recorded, window: SignalWindow) -> str | None:
    if window.inputs is None:
        return None
    return f"{recorded.bundle.name(Topic.TELEMETRY)}/{window.inputs.partition}@{window.inputs.last_offset}"


def _heard(recorded: Recorded, window: SignalWindow) -> list[Heard]:
    """Samples of the window's service between the offsets that the window names, by instance."""
    inputs = window.inputs
    if inputs is None or inputs.first_offset is None:
        return []
    found: dict[InstanceName, list[tuple[Record, int]]] = {}
    samples: dict[InstanceName, list[tuple[int, float | None, float | None]]] = {}
    shape: dict[InstanceName, tuple[RoleName, NodeName | None, GpuTypeName | None]] = {}
    for record in recorded.bundle.records(Topic.TELEMETRY):
        if record.partition == inputs.partition and record.offset > inputs.last_offset:
            break
        inside = record.partition == inputs.partition and inputs.first_offset <= record.offset
        if not inside or record.value is None or keys.service_of(record.key) != window.service:
            continue
        for sample in _samples(record.value):
            found.setdefault(sample.instance, []).append((record, sample.at_ms))
            samples.setdefault(sample.instance, []).append((sample.at_ms, sample.generation_tokens, sample.prompt_tokens))
            shape[sample.instance] = (sample.role, sample.node, sample.gpu_type)
    heard = []
    for instance, records in sorted(found.items()):
        role, node, gpu_type = shape[instance]
        ordered = sorted(samples[instance], key=lambda one: one[0])  # counters of one instant may be there and not
        heard.append(
            Heard(
                instance=instance,
                role=role,
                node=node,
                gpu_type=gpu_type,
                samples=len(records),
                first=place_of(min(records, key=lambda one: one[1])[0]),
                last=place_of(max(records, key=lambda one: one[1])[0]),
                decode_tokens=_increase([one[1] for one in ordered]),
                prompt_tokens=_increase([one[2] for one in ordered]),
            )
        )
    return heard


def _samples(payload: bytes) -> list[InstanceSample]:
    try:
        return codec.decode(Samples, payload).samples
    except Rejected:
        return []


def _increase(values: list[float | None]) -> float | None:
    """The sum of rises, a fall being a restart; null without two values."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return None
    return sum(after - before if after >= before else after for before, after in pairwise(known))


def _placements_read(recorded: Recorded, decision: Decision) -> list[str]:
    """Placements that were folded since the decision before."""
    cut = next((offset for at, offset in decision.inputs.items() if Topic.PLACEMENTS.value in at), 0)
    before = recorded.decisions_until(decision.service, decision.at_ms - 1).first
    since = 0 if before is None else next((offset for at, offset in before.message.inputs.items() if Topic.PLACEMENTS.value in at), 0)
    return [one.place for one in recorded.placements_of(decision.service, since, cut)]


def _answers(recorded: Recorded, decision: Decision) -> Iterator[Found[Placement]]:
    """Placements of the command that the decision gave, up to the one that says converged; of one that it affirmed, up to the next."""
    seen: set[tuple[int, int | None]] = set()
    affirmed = decision.command_id != decision.id
    later = next((one.message.at_ms for one in recorded.decisions_after(decision.service, decision.at_ms)), 2**62) if affirmed else 2**62
    for one in recorded.placements_of(decision.service):
        placement = one.message
        key = (placement.gen, placement.seq)
        if placement.command_id != decision.command_id or key in seen or placement.at_ms >= later:
            continue
        if affirmed and placement.at_ms < decision.at_ms:
            continue
        seen.add(key)
        yield one
        if not affirmed and placement.status.value == "converged":
            return


def _ended(recorded: Recorded, decision: Decision, answers: list[Found[Placement]]) -> str:
    """How it ended: converged, overtaken by a newer command, or not inside the bundle."""
    if decision.command_id != decision.id:
        return "the command before was affirmed"
    for answer in answers:
        if answer.message.status.value == "converged":
            return f"converged at {instant_text(answer.message.at_ms)}  {answer.place}"
    revision = max((answer.message.revision for answer in answers), default=None)
    for one in recorded.commands_to(decision.service):
        command = one.message
        if not command.dry_run and revision is not None and command.revision > revision:
            return f"overtaken by command {command.id} at {instant_text(command.at_ms)}  {one.place}"
    return "not converged inside this bundle"


def _moves(answer: Found[Placement]) -> Iterator[Moved]:
    placement = answer.message
    where = {one.id: (one.role, sorted(one.nodes)) for group in placement.groups for one in group.instances}
    for change in placement.changes:
        role, nodes = where.get(change.instance, (None, []))
        yield Moved(
            at_ms=placement.at_ms,
            place=answer.place,
            instance=change.instance,
            role=role,
            before=change.from_,
            after=change.to,
            reason=change.reason,
            nodes=nodes,
        )


def kcat(place: str, broker: str = "$HETEROSCALE_KAFKA") -> str:
    """The record at `topic/partition@offset`, as a command to copy."""
    topic, _, rest = place.rpartition("/")
    partition, _, offset = rest.partition("@")
    return f"kcat -C -b {broker} -t {topic} -p {partition} -o {offset} -c 1"
