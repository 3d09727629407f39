"""The production services around the world, in one process: determinism, faults and healing, the demo, `simulate`."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from heteroscale.bus.memory import MemoryLog
from heteroscale.cli.main import cli
from heteroscale.console import closing_table, live
from heteroscale.contracts import codec
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.topics import Topic
from heteroscale.decision.law.ratio import derive
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator import demo
from heteroscale.simulator.cluster import fleet
from heteroscale.simulator.cluster.world import Scene
from heteroscale.simulator.figures.view import View
from heteroscale.simulator.loop import crew
from heteroscale.simulator.loop.crew import Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.play import Played, play
from support.simulation_cast import scene
from support.topic_values import values

SUMMARY = [
    "policy", "seed", "hours", "gpu_hours", "gpu_hours_static_peak", "gpu_util", "gpu_util_by_role", "slo_attainment", "ttft_attainment",
    "tbt_attainment", "requests", "unserved_requests", "scale_actions", "direction_changes", "pair_violations", "unplaced_minutes",
    "cross_s2_pairs", "decisions", "wall_s",
]  # fmt: skip
SPEC = """
service: chat
roles:
  prefill: {min: 1, max: 12, gpus: 8, gpu_types: [{type: H20}]}
  decode: {min: 1, max: 4, gpus: 8, gpu_types: [{type: H20}]}
ratio: {prefill: 4, decode: 1}
slo: {ttft: 2s, tbt: 70ms}
window: {size: 60s, hop: 30s, interval: 10s, silence: 30s}
signals: [{metric: decode_tps, role: decode, target: 4600}]
"""
FLEET = "fleet: default\nnodes:\n" + "\n".join(
    f"  - {{node: n{index}, gpu_type: H20, gpus: 8, at: {{cluster: c1, s2: A, s1: a{index % 2}}}}}" for index in range(16)
)
TRACE = "at_s,requests,prompt_tokens,output_tokens\n0,1800,2880000,180000\n600,3600,5760000,360000\n1200,1800,2880000,180000\n"


@pytest.fixture(autouse=True)
def _quiet() -> None:
    """Services log what matters to nobody here."""
    logs.configure(LogFormat.JSON, LogLevel.ERROR)


async def embedded(here: Scene) -> tuple[Played, MemoryLog, Embedded, list[View]]:
    """The scene with the production services."""
    log, parts, views = MemoryLog(), Embedded(), list[View]()
    played = await play(here, log, Tasks(log, here.prefix, parts.services()), views.append, timeout_s=30.0)
    return played, log, parts, views


async def test_a_played_day_places_all_keeps_the_pair_and_leaks_nothing() -> None:
    """No fault in the closing, accounts add up, every decision's counts are derive(n)."""
    here = scene(0.5)
    played, log, parts, views = await embedded(here)
    assert [] == played.closing.faults
    assert [] == crew.leaks(await parts.inventory.read("default"))
    ratios = {spec.service: (spec.ratio, spec.signals[0].role or "") for spec in here.specs}
    decisions = [json.loads(value) for value in await values(log, here.prefix, Topic.DECISIONS)]
    for decision in decisions:
        ratio, lead = ratios[decision["service"]]
        after = {role: count["replicas"] for role, count in decision["after"].items()}
        assert derive(after[lead], ratio, lead) == after
    assert played.closing.summary.decisions == sum(here.start_ms <= decision["at_ms"] <= here.ends_at_ms for decision in decisions)
    assert views[-1].progress == 1.0


async def test_an_s1_fails_and_after_healing_the_loop_settles() -> None:
    """Safety throughout, and liveness: within 25 minutes of healing all that is commanded is ready again."""
    here = scene(0.9, "s1:leaf-1-1@10m+10m", "instance:code/prefill@5m")
    played, log, parts, _ = await embedded(here)
    assert [] == crew.leaks(await parts.inventory.read("default"))
    newest: dict[str, Placement] = {}
    for value in await values(log, here.prefix, Topic.PLACEMENTS):
        placement = codec.decode(Placement, value)
        newest[placement.service] = placement
        used: dict[str, int] = {}
        for group in placement.groups:
            for instance in group.instances:
                for node, gpus in instance.nodes.items():
                    used[node] = used.get(node, 0) + (gpus if instance.state is not InstanceState.FAILED else 0)
        assert max(used.values(), default=0) <= 8
    assert [] == played.closing.faults
    assert {"chat": {}, "code": {}} == {name: placement.shortfall for name, placement in sorted(newest.items())}


HASHING = """
import asyncio, hashlib, sys
sys.path.insert(0, sys.argv[1])
from test_whole_loop import embedded
from support.simulation_cast import scene
from support.topic_values import values
from heteroscale.contracts.topics import Topic
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
logs.configure(LogFormat.JSON, LogLevel.ERROR)
async def main():
    _, log, _, _ = await embedded(scene(0.3))
    for topic in (Topic.SIGNALS, Topic.DECISIONS, Topic.PLACEMENTS):
        print(hashlib.sha256(b"\\n".join(await values(log, "t", topic))).hexdigest())
asyncio.run(main())
"""


def test_the_same_seed_gives_the_same_bytes_under_any_hash_seed() -> None:
    """SAME-IN-SAME-OUT: signals, decisions and placements of two runs are equal byte for byte."""
    said = set()
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        command = [sys.executable, "-c", HASHING, str(Path(__file__).parent)]
        said.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout)
    assert 1 == len(said)
    assert 3 == len(said.pop().split())


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Arguments that name a spec, a trace and a fleet."""
    for name, text in (("spec.yaml", SPEC), ("trace.csv", TRACE), ("fleet.yaml", FLEET)):
        (tmp_path / name).write_text(text)
    return ["--spec", str(tmp_path / "spec.yaml"), "--trace", str(tmp_path / "trace.csv"), "--fleet", str(tmp_path / "fleet.yaml")]


@pytest.mark.parametrize("policy", ["heteroscale", "static-peak", "hpa-gpu"])
def test_simulate_ends_with_the_summary(files: list[str], policy: str) -> None:
    """Stdout is JSON lines alone; the last has every key, in order, and the trace's totals."""
    done = CliRunner().invoke(cli, ["simulate", *files, "--policy", policy, "--json"])
    assert 0 == done.exit_code, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert SUMMARY == [key for key in SUMMARY if key in last]
    assert (policy, 0.5, 7200) == (last["policy"], last["hours"], last["requests"])
    assert 0 <= last["slo_attainment"] <= last["ttft_attainment"] <= 1


def test_simulate_plays_through_the_cores_alone(files: list[str]) -> None:
    """`--through cores`, as the documents write it: the same keys in the summary, and the same requests."""
    done = CliRunner().invoke(cli, ["simulate", *files, "--through", "cores", "--json"])
    assert 0 == done.exit_code, done.output
    last = json.loads(done.stdout.splitlines()[-1])
    assert SUMMARY == [key for key in SUMMARY if key in last]
    assert 7200 == last["requests"]


def test_any_interval_and_placement_can_be_played(files: list[str], tmp_path: Path) -> None:
    """Samples fall on an interval that steps do not share; a spec without placement gets the default one, and a note says so."""
    odd = SPEC.replace("interval: 10s", "interval: 3s, silence: 9s").replace(", silence: 30s", "") + "placement: none\n"
    (tmp_path / "spec.yaml").write_text(odd)
    done = CliRunner().invoke(cli, ["simulate", *files, "--json"])
    assert 0 == done.exit_code, done.output
    assert "default placement" in done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["slo_attainment"] > 0.5


def test_simulate_refuses_what_makes_no_sense(files: list[str]) -> None:
    """Exit 2 and a message that names the option and what there is."""
    for extra, expected in ((["--policy", "magic"], "hpa-gpu"), (["--fault", "s1:nowhere@1m"], "a0"), (["--scale", "0"], "0<x")):
        done = CliRunner().invoke(cli, ["simulate", *files, *extra])
        assert 2 == done.exit_code
        assert expected in done.stderr


async def test_the_screens_show_what_the_topics_hold() -> None:
    """Lines and table name services, replicas and moves; the closing table has every figure."""
    played, _, _, views = await embedded(scene(0.2))
    written: list[str] = []
    lines = live.LineScreen(written.append)
    console = Console(record=True, width=200, force_terminal=True, file=io.StringIO())
    table = live.screen_for(console)
    for view in views:
        lines.show(view)
        table.show(view)
    table.close()
    assert any("scale-out (bounds): prefill 0 → 20, decode 0 → 4" in line for line in written)
    closing_table.show(console, played.closing, played.wall_s)
    closing_table.verdict(console, played.closing.faults)
    text = console.export_text()
    assert "GPU-hours, static peak" in text
    assert "It worked" in text


def test_the_demo_has_its_cast() -> None:
    """Two services on one mixed fleet, for a whole day."""
    here = demo.scene("p", demo.Options())
    assert ["chat", "code"] == [spec.service for spec in here.specs]
    assert {"H20", "H200"} == {node.gpu_type for node in here.nodes}
    assert 86_400_000 == here.ends_at_ms - here.start_ms
    assert 192 == len(fleet.parse(fleet.demo_text("fleet.yaml"), "fleet.yaml"))


def test_an_interrupt_is_taken_once() -> None:
    """The first signal cancels, and the handlers are gone afterwards."""

    async def interrupted() -> None:
        with demo.interruptible():
            os.kill(os.getpid(), 15)
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
