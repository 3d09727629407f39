"""Small incidents played by the simulator with the production services, and bundles of them.

`PYTHONPATH=tests python -m support.incidents` records the golden bundles of tests/replay/bundles again.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import yaml

from heteroscale.bus.log import Record
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision, RoleAfter
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.decision import app as decision
from heteroscale.decision.settings import DecisionSettings
from heteroscale.replay import archive, bundle
from heteroscale.replay.capture import Wanted, capture
from heteroscale.replay.frames import FrameWriter
from heteroscale.replay.manifest import Manifest, Span
from heteroscale.runtime import logs
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator.cluster import faults, fleet
from heteroscale.simulator.cluster.world import Scene
from heteroscale.simulator.load import traffic
from heteroscale.simulator.loop.crew import Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.play import play

PREFIX = "incident"
DIVERGES_AT = 40
DIVERGING = "diverges.tar.zst"
START_MS = 1_767_571_200_000
MINUTE_MS = 60_000
SPEC = """
service: chat
mode: active
roles:
  prefill: {min: 1, max: 8, gpus: 8, gpu_types: [{type: H20}]}
  decode: {min: 1, max: 4, gpus: 8, gpu_types: [{type: H20}]}
ratio: {prefill: 2, decode: 1}
slo: {ttft: 2s, tbt: 70ms}
window: {size: 60s, hop: 60s, interval: 20s, silence: 60s}
signals: [{metric: decode_tps, role: decode, target: 3000}]
guards: [{latency: tbt, quantile: p95, moderate: 70ms, severe: 90ms}]
behavior:
  scale_out: {cooldown: 60s}
  scale_in: {stabilization: 120s, cooldown: 120s, soft: {observe: 60s}}
"""
HEAD = "at_s,requests,prompt_tokens,output_tokens\n"
CALM, BUSY = "1200,1200000,240000\n", "6000,6000000,1200000\n"  # in five minutes
QUIET = HEAD + "".join(f"{at},{CALM}" for at in (0, 300, 600, 900))
BURST = HEAD + f"0,{CALM}300,{BUSY}600,{CALM}900,{CALM}"
Hook = Callable[[int, "Stage"], None]


class Stage:
    """What a hook can reach while a scene is played."""

    def __init__(self, crew: Tasks, parts: Embedded) -> None:
        self.crew = crew
        self.parts = parts

    def second_decider(self) -> None:
        """Another decision worker joins the group, and the first one leaves: every partition changes hands."""
        context = Context(log=self.crew.log, prefix=self.crew.prefix, health=Health())
        first = self.crew.contexts["decision"]
        self.crew.contexts["decision-2"] = context
        self.crew.tasks["decision-2"] = asyncio.create_task(decision.serve(context, DecisionSettings()))
        first.stop.set()
        self.crew.tasks.pop("decision")

    def restart_inventory(self) -> None:
        """The inventory's server starts anew and has kept everything."""
        self.parts.inventory.restart()

    def lose_inventory(self) -> None:
        """The inventory forgets everything."""
        self.parts.inventory.lose("default")


def scene(trace: str, *mishaps: str, minutes: int = 20, nodes: int | Sequence[str] = 16, seed: int = 1) -> Scene:
    """A chat service on a small fleet of two leaves, its nodes counted or named."""
    names = [f"n{at:02d}" for at in range(nodes)] if isinstance(nodes, int) else nodes
    rows = [f"  - {{node: '{name}', gpu_type: H20, gpus: 8, at: {{cluster: c1, s2: A, s1: a{at % 2}}}}}" for at, name in enumerate(names)]
    return Scene(
        specs=[codec.convert(ServiceSpec, yaml.safe_load(SPEC))],
        traffic=[traffic.parse(trace, "trace").until(minutes * 60)],
        nodes=fleet.parse("fleet: default\nnodes:\n" + "\n".join(rows), "fleet"),
        start_ms=START_MS,
        prefix=PREFIX,
        seed=seed,
        faults=[faults.parse(text) for text in mishaps],
    )


async def played(here: Scene, hook: Hook | None = None) -> MemoryLog:
    """Play a scene; the log with all its topics. The hook hears how many hops have gone by."""
    log, parts = MemoryLog(), Embedded()
    crew = Tasks(log, here.prefix, parts.services())
    hops = 0

    def on_hop(_view: object) -> None:
        nonlocal hops
        hops += 1
        if hook is not None:
            hook(hops, Stage(crew, parts))

    await play(here, log, crew, on_hop, timeout_s=30.0)
    return log


async def bundle_of(log: MemoryLog, folder: Path, *, since_min: int = -60, until_min: int = 60, prefix: str = PREFIX) -> Manifest:
    """A bundle of the minutes given, counted from the start of the trace."""
    span = Span(from_ms=START_MS + since_min * MINUTE_MS, to_ms=START_MS + until_min * MINUTE_MS)
    return await capture(log, Wanted(prefix, span), folder)


def _at(hop: int, act: Callable[[Stage], None]) -> Hook:
    def hook(hops: int, stage: Stage) -> None:
        if hops == hop:
            act(stage)

    return hook


STORIES: dict[str, tuple[Callable[[], Scene], Hook | None]] = {
    "quiet": (lambda: scene(QUIET), None),
    "burst": (lambda: scene(BURST), None),
    "outage": (lambda: scene(QUIET, "silence:chat@5m+6m"), None),
    "rebalance": (lambda: scene(BURST), _at(52, Stage.second_decider)),
    "redis-loss": (lambda: scene(BURST, "node:n01@6m"), _at(52, Stage.lose_inventory)),
    "redis-restart": (lambda: scene(BURST, "node:n01@6m"), _at(52, Stage.restart_inventory)),
    "shortage": (lambda: scene(BURST, nodes=5), None),
}


def tampered(source: Path, target: Path, topic: Topic, edit: Callable[[Record], Record | None]) -> Path:
    """A bundle in which some records of a topic read otherwise (null: gone), with marks that fit again; counts stay as they were."""
    shutil.copytree(source, target)
    found = bundle.open_folder(target)
    path = target / found.manifest.topics[topic.value].file
    changed = [after for record in list(found.records(topic)) if (after := edit(record)) is not None]
    with FrameWriter(path) as writer:
        for record in changed:
            writer.write(bundle.to_line(record))
        writer.close()
    return marked_anew(target)


def marked_anew(folder: Path) -> Path:
    """A bundle directory whose files were changed, with marks that fit them."""
    about = bundle.open_folder(folder, check=False).manifest
    files = {name: bundle.mark_of(folder / name) for name in about.files}
    bundle.write_manifest(folder, msgspec.structs.replace(about, files=files))
    return folder


def another_count(record: Record) -> Record:
    """The fortieth decision, as if it had commanded one decode more."""
    if record.offset != DIVERGES_AT or record.value is None:
        return record
    decision = codec.decode(Decision, record.value)
    after = {**decision.after, "decode": RoleAfter(replicas=decision.after["decode"].replicas + 1)}
    return record._replace(value=codec.encode(msgspec.structs.replace(decision, after=after)))


async def record_all(folder: Path) -> None:
    """Record every story again, and the one that must diverge."""
    for name, (make, hook) in STORIES.items():
        log = await played(make(), hook)
        with TemporaryDirectory() as own:
            await bundle_of(log, Path(own) / name)
            archive.pack(Path(own) / name, folder / f"{name}{archive.SUFFIX}")
            if name == "burst":
                archive.pack(tampered(Path(own) / name, Path(own) / "other", Topic.DECISIONS, another_count), folder / DIVERGING)


if __name__ == "__main__":
    logs.configure(LogFormat.CONSOLE, LogLevel.ERROR)
    asyncio.run(record_all(Path(__file__).parents[1] / "replay" / "bundles"))
