"""Reads a finished run back from its topics: the figures, what is on each topic, and whether everything really worked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.commands import Command
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Broken
from heteroscale.contracts.fleet import FleetNode
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.telemetry import Samples, TelemetryRecord
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name, topic_of
from heteroscale.simulator.cluster.world import STEP_MS, Scene
from heteroscale.simulator.cores.direct import Direct
from heteroscale.simulator.figures.report import ServiceFigures, Summary, Tally, summarise
from heteroscale.simulator.load.traffic import OUTPUT, PROMPT, REQUESTS, Floats
from heteroscale.simulator.model.curves import Curves, kind_of
from heteroscale.simulator.model.pool import Kind
from heteroscale.simulator.model.service import ServiceModel, slo_s
from heteroscale.simulator.model.static import Day, StaticFleet, smallest

READ_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Closing:
    """Everything the closing table shows. `faults` is empty when the run really worked; `moved` is a decision worth a look."""

    summary: Summary
    services: dict[str, ServiceFigures]
    static: dict[str, StaticFleet]
    records: dict[str, int]
    faults: list[str]
    moved: Decision | None = None


@dataclass(slots=True)
class Answers:
    """What commands asked for and what placement answered, per service."""

    newest_command: dict[str, Command]
    newest: dict[str, Placement]
    nodes: dict[str, FleetNode]

    def faults(self) -> list[str]:
        """Commands without an answer, shortfalls that stand, and GPUs given twice."""
        found = []
        for service, command in sorted(self.newest_command.items()):
            placement = self.newest.get(service)
            if placement is None or placement.at_ms < command.at_ms:
                found.append(f"{service}: the command of revision {command.revision} was never answered")
            elif any(placement.shortfall.values()):
                found.append(f"{service}: not all of revision {placement.revision} is placed: {dict(sorted(placement.shortfall.items()))}")
        used: dict[str, int] = {}
        for _, placement in sorted(self.newest.items()):
            for group in placement.groups:
                for instance in group.instances:
                    if instance.state is not InstanceState.FAILED:
                        for node, gpus in instance.nodes.items():
                            used[node] = used.get(node, 0) + gpus
        found += [
            f"node {node}: {gpus} GPUs reserved of {self.nodes[node].gpus if node in self.nodes else 0}"
            for node, gpus in sorted(used.items())
            if node not in self.nodes or gpus > self.nodes[node].gpus
        ]
        return found


async def close(log: Log, scene: Scene, models: Mapping[str, ServiceModel]) -> Closing:
    """Read the run's topics to their end and add up. Raises Broken if the log does not answer."""
    tallies = tallies_of(scene, models)
    answers = Answers({}, {}, {})
    await _telemetry(log, scene.prefix, tallies)
    await _control(log, scene.prefix, tallies, answers)
    records = await counts(log, scene.prefix)
    faults = answers.faults()
    if records[Topic.DEAD_LETTERS.value]:
        faults.append(f"{records[Topic.DEAD_LETTERS.value]} dead letters")
    return _add_up(scene, {name: day_of(scene, model) for name, model in models.items()}, tallies, (records, faults))


def of_direct(scene: Scene, run: Direct, days: Mapping[str, Day] | None = None) -> Closing:
    """The closing of a run without a log: what it tallied, and the newest placements. `days` that are given spare work."""
    answers = Answers(run.commands, run.seen.placements, dict(run.world.nodes))
    known = days or {name: day_of(scene, model) for name, model in run.world.models.items()}
    return _add_up(scene, known, run.tallies, ({}, answers.faults()))


def tallies_of(scene: Scene, models: Mapping[str, ServiceModel]) -> dict[str, Tally]:
    """An empty tally a service."""
    return {
        name: Tally(model.spec, scene.start_ms, scene.ends_at_ms, yardstick(model, counted_load(scene, model)))
        for name, model in sorted(models.items())
    }


def _add_up(scene: Scene, days: Mapping[str, Day], tallies: Mapping[str, Tally], found: tuple[dict[str, int], list[str]]) -> Closing:
    records, faults = found
    traffic = {spec.service: one for spec, one in zip(scene.specs, scene.traffic, strict=True)}
    figures = {name: tally.figures(float(traffic[name].totals[:, REQUESTS].sum())) for name, tally in tallies.items()}
    hours = (scene.ends_at_ms - scene.start_ms) / 3_600_000
    static = {name: static_for(days[name], figures[name]) for name in figures}
    summary = summarise(figures.values(), hours, sum(fleet.gpus for fleet in static.values()) * hours)
    faults += [f"{name}: no decision" for name, figure in figures.items() if not figure.decisions]
    if summary.pair_violations:
        faults.append(f"{summary.pair_violations} decisions or groups that do not keep the ratio")
    return Closing(summary, figures, static, records, faults, _newest_scale_out(tallies))


def _newest_scale_out(tallies: Mapping[str, Tally]) -> Decision | None:
    moves = [tally.newest_scale_out for tally in tallies.values() if tally.newest_scale_out is not None]
    return max(moves, key=lambda move: (move.at_ms, move.service), default=None)


def counted_load(scene: Scene, model: ServiceModel) -> Floats:
    """The load of the counted part, without the warm-up."""
    return model.load[scene.warmup_ms // STEP_MS :]


def day_of(scene: Scene, model: ServiceModel) -> Day:
    """The counted load of a service, for policies that know it and for the search for a fixed fleet."""
    return Day(model.spec, model.curves, counted_load(scene, model), STEP_MS / 1000, model.prompt_cv)


def static_for(day: Day, figures: ServiceFigures) -> StaticFleet:
    """The smallest fixed fleet that does as well as the run did."""
    return smallest(day, figures.in_slo / figures.requests if figures.requests else 1.0)


def yardstick(model: ServiceModel, load: Floats) -> dict[tuple[str, str], float]:
    """Tokens/s that one GPU does at most within the SLO, at the trace's mean lengths, per (role, GPU type)."""
    requests, prompt, output = (max(float(load[:, column].sum()), 1e-9) for column in (REQUESTS, PROMPT, OUTPUT))
    found = {}
    for name, role in sorted(model.spec.roles.items()):
        kind = kind_of(name, model.spec)
        for choice in role.gpu_types:
            rate = _peak(model.curves, kind, prompt / requests, output / requests, slo_s(model.spec, "tbt"))
            if rate is not None:
                found[(name, choice.type)] = rate * model.curves.factor(name, choice.type)
    return found


def _peak(curves: Curves, kind: Kind, prompt: float, output: float, tbt_s: float | None) -> float | None:
    if kind is Kind.PREFILL:
        return float(curves.prefill.rate(prompt)) / curves.prefill.engine_gpus
    if kind is Kind.DECODE:
        return curves.decode.rate_within(prompt + output / 2, tbt_s) / curves.decode.engine_gpus
    return None


async def _telemetry(log: Log, prefix: str, tallies: Mapping[str, Tally]) -> None:
    decode = codec.decoder(TelemetryRecord).decode
    async for record in read(log, topic_name(prefix, Topic.TELEMETRY)):
        if record.key is None or record.value is None:
            continue
        message = decode(record.value)
        if isinstance(message, Samples) and message.service in tallies:
            tallies[message.service].telemetry(message)


async def _control(log: Log, prefix: str, tallies: Mapping[str, Tally], answers: Answers) -> None:
    async for record in read(log, topic_name(prefix, Topic.DECISIONS)):
        decision = codec.decode(Decision, record.value or b"")
        if decision.service in tallies:
            tallies[decision.service].decision(decision)
    async for record in read(log, topic_name(prefix, Topic.PLACEMENTS)):
        placement = codec.decode(Placement, record.value or b"")
        if placement.service in tallies:
            tallies[placement.service].placement(placement)
            if placement.seq is not None and (placement.gen, placement.seq) >= _order(answers.newest.get(placement.service)):
                answers.newest[placement.service] = placement
    async for record in read(log, topic_name(prefix, Topic.COMMANDS)):
        command = codec.decode(Command, record.value or b"")
        if not command.dry_run:
            answers.newest_command[command.service] = command
    async for record in read(log, topic_name(prefix, Topic.FLEET)):
        if record.value is not None:
            node = codec.decode(FleetNode, record.value)
            answers.nodes[node.node] = node


def _order(placement: Placement | None) -> tuple[int, int]:
    return (-1, -1) if placement is None else (placement.gen, placement.seq or 0)


async def read(log: Log, topic: str) -> AsyncIterator[Record]:
    """All records of a topic as they stand, partition by partition in the order they come."""
    known = topic_of(topic)
    partitions = [TopicPartition(topic, index) for index in range(CATALOGUE[known].partitions)] if known else []
    begin, end = await log.begin_offsets(partitions), await log.end_offsets(partitions)
    reader = log.reader(begin)
    try:
        while any(position < end[at] for at, position in reader.positions().items()):
            records = await reader.poll(timeout_ms=READ_TIMEOUT_MS)
            if not records:
                raise Broken(f"{topic}: nothing came within {READ_TIMEOUT_MS // 1000} s though its end is not reached")
            for record in records:
                yield record
    finally:
        await reader.close()


async def counts(log: Log, prefix: str) -> dict[str, int]:
    """Records on each topic of the prefix."""
    found = {}
    for topic, spec in CATALOGUE.items():
        partitions = [TopicPartition(topic_name(prefix, topic), index) for index in range(spec.partitions)]
        begin, end = await log.begin_offsets(partitions), await log.end_offsets(partitions)
        found[topic.value] = sum(end[at] - begin[at] for at in partitions)
    return found
