"""placements, why-unplaced and inventory, on topics in memory and an inventory in memory that a real worker has filled."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest

from heteroscale.bus.log import Entry
from heteroscale.cli.log_view import LogView
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.contracts.placements import PlacementStatus
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.placement import app
from heteroscale.placement.inventory.entries import Unreadable
from heteroscale.placement.inventory.memory import MemoryInventory
from support.builders import AT_MS, entry
from support.command_line import PREFIX, CommandLine
from support.gangs import node
from support.placement_driver import command
from support.placement_stage import Stage

REDIS = ("--redis", "redis://nowhere:1/0")
NODES = [node(f"n{at}", used=8 if at >= 4 else 0) for at in range(6)]


def small(asked: Command) -> Command:
    """The same in quarter nodes."""
    return msgspec.structs.replace(asked, roles={role: msgspec.structs.replace(one, gpus=2) for role, one in asked.roles.items()})


@pytest.fixture
def inventory(monkeypatch: pytest.MonkeyPatch) -> MemoryInventory:
    """What every command opens."""
    found = MemoryInventory()
    monkeypatch.setattr(app, "inventory_for", lambda settings, prefix: found)  # noqa: ARG005 - called by position
    return found


@pytest.fixture
def line(inventory: MemoryInventory) -> CommandLine:
    """One service that runs, one that does not fit, telemetry of a running stranger and of one that says too little."""
    line = CommandLine()

    async def play() -> None:
        stage = Stage(line.log, PREFIX)
        await stage.build(*NODES)
        stage.start(inventory)
        placed = await stage.answer(command())
        await stage.acknowledge(placed, ActuationKind.READY)
        await stage.until(lambda one: one.status is PlacementStatus.CONVERGED)
        await stage.answer(command(2, service="late", after_ms=1))
        await stage.answer(small(command(service="shade", after_ms=2, dry_run=True)))
        await stage.stop()
        await stage.close()

    asyncio.run(play())
    strangers = [
        InstanceSample(instance="x1", role="decode", state=EngineState.SERVING, at_ms=AT_MS, node="n4", gpu_type="H20", gpus=8),
        InstanceSample(instance="x2", role="decode", state=EngineState.SERVING, at_ms=AT_MS, node="n0", gpu_type="H20", gpus=8),
        InstanceSample(instance="x3", role="decode", state=EngineState.SERVING, at_ms=AT_MS),
    ]
    telemetry = topic_name(PREFIX, Topic.TELEMETRY)
    line.put([entry(PREFIX, Topic.TELEMETRY, "chat", Samples(service="chat", samples=strangers))])
    line.put([Entry(telemetry, None, codec.encode(Tick(at_ms=AT_MS + 5_000)), AT_MS, partition=0)])
    return line


def test_show_prints_the_tree(line: CommandLine) -> None:
    """Group with domain and pool, roles with counts, instances with state and nodes; an unknown service is exit 2."""
    shown = line("placements", "show", "chat")
    assert 0 == shown.exit_code
    assert "chat  converged  revision 1  gen 1 seq" in shown.stdout
    assert "c1/A" in shown.stdout
    assert "decode: 2, 2 routable" in shown.stdout
    assert 3 == shown.stdout.count("  ready  H20 on n")
    (document,) = line.json("placements", "show", "chat")
    assert "converged" == document["status"]
    unknown = line("placements", "show", "nobody")
    assert (2, True) == (unknown.exit_code, "nobody" in unknown.stderr)


def test_why_unplaced_names_what_is_missing(line: CommandLine) -> None:
    """Needed, available, and what stands in the way."""
    said = line("why-unplaced", "late").stdout
    assert "late is unplaced: 4 decode, 2 prefill missing" in said
    assert "decode: 4 needed" in said
    assert "chat has all that was asked for" in line("why-unplaced", "chat").stdout


def test_a_service_in_shadow_mode_has_recommendations_only(line: CommandLine) -> None:
    """It holds nothing to be shown, but whether it could be placed and how often is known."""
    shown = line("placements", "show", "shade")
    assert (2, True) == (shown.exit_code, "shadow mode" in shown.stderr and "why-unplaced shade" in shown.stderr)
    assert "shade could be placed as recommended (dry run)" in line("why-unplaced", "shade").stdout
    (document,) = line.json("fleet", "headroom", "shade", *REDIS)
    assert ({"decode": 2, "prefill": 1}, 1) == (document["unit"], document["units"])


def test_what_cannot_be_read_is_a_violation(line: CommandLine, inventory: MemoryInventory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 1 with what was found, as a document too: somebody else wrote into the keys."""

    async def read(fleet: str) -> None:
        raise Unreadable(f"inventory of fleet {fleet}: node n1 reads 'x'; delete the key")

    monkeypatch.setattr(inventory, "read", read)
    said = line("inventory", "check", *REDIS)
    assert (1, True) == (said.exit_code, "default: READABLE default: inventory of fleet default: node n1 reads 'x'" in said.stdout)
    assert '"invariant":"READABLE"' in line("inventory", "check", "--json", *REDIS).stdout


def test_check_is_clean_and_finds_what_is_wrong(line: CommandLine, inventory: MemoryInventory) -> None:
    """Exit 0 and the names of the invariants; a GPU that vanished from the books is exit 1 and named."""
    clean = line("inventory", "check", *REDIS)
    assert (0, True) == (clean.exit_code, "default: ok (NO-LEAK" in clean.stdout)
    entry_of = inventory._fleets["default"].nodes
    entry_of["n3"] = msgspec.structs.replace(entry_of["n3"], free=7)
    broken = line("inventory", "check", *REDIS)
    assert (1, True) == (broken.exit_code, "NO-LEAK n3: 8 GPUs, but free 7" in broken.stdout)


def test_inventory_show_lists_nodes_and_holders(line: CommandLine) -> None:
    """Every node with its accounts."""
    rows = line.json("inventory", "show", *REDIS)
    assert [(0, 8), (8, 0)] == sorted({(row["held"], row["free"] + row["used"]) for row in rows})
    assert 3 == sum(row["services"] == ["chat"] for row in rows)


def test_adopt_is_a_dry_run_until_told_otherwise(line: CommandLine) -> None:
    """It names what it would adopt, what conflicts and what says too little; with --yes it sends one command."""
    said = line("placements", "adopt", "chat", *REDIS)
    assert 0 == said.exit_code
    assert "x1" in said.stdout
    assert "x2: not adopted: conflict on node n0: it takes 8 GPUs, and at most 0 are not reserved" in said.stderr
    assert "x3: not adopted: its telemetry does not say node" in said.stderr
    assert "dry run: 1 would be adopted as revision 2" in said.stderr
    before = len(commands(line))
    assert 0 == line("placements", "adopt", "chat", "--yes", *REDIS).exit_code
    sent = commands(line)
    assert before + 1 == len(sent)
    newest = sent[-1]
    assert (2, AT_MS + 5_000, 4) == (newest.revision, newest.at_ms, newest.roles["decode"].replicas)
    assert ["x1", "x2"] == [one.instance for one in newest.adopt or []]


def commands(line: CommandLine) -> list[Command]:
    """All commands of the service on the log."""
    records = asyncio.run(LogView(line.log, PREFIX).records(Topic.COMMANDS))
    found = [codec.decode(Command, record.value or b"") for record in records]
    return [one for one in found if one.service == "chat"]


def test_headroom_counts_units_of_the_service_as_it_is(line: CommandLine, inventory: MemoryInventory) -> None:
    """One of four free nodes is left beside three that are held: no whole unit; a freed node makes one."""
    (document,) = line.json("fleet", "headroom", "chat", *REDIS)
    assert ({"decode": 2, "prefill": 1}, 0, []) == (document["unit"], document["units"], document["domains"])
    entry_of = inventory._fleets["default"].nodes
    for name in ("n4", "n5"):
        entry_of[name] = msgspec.structs.replace(entry_of[name], free=8, used=0)
    (document,) = line.json("fleet", "headroom", "chat", *REDIS)
    assert (1, "low", 1) == (document["units"], document["domains"][0]["pool"], document["domains"][0]["units"])
    assert "chat: room for 1 more units of 2 decode, 1 prefill" in line("fleet", "headroom", "chat", *REDIS).stdout
    unknown = line("fleet", "headroom", "chatt", *REDIS)
    assert (2, True) == (unknown.exit_code, "did you mean chat?" in unknown.stderr)


def test_plan_against_live_starts_from_what_runs_and_reserves_nothing(
    line: CommandLine, inventory: MemoryInventory, tmp_path: Path
) -> None:
    """One more decode joins the running group on the free node; two do not fit; the books are as before."""
    requests = tmp_path / "requests.yaml"
    before = asyncio.run(inventory.read("default"))
    text = (
        "requests: [{service: chat, roles: {prefill: {add: 0, gpus: 8, gpu_types: [H20]}, decode: {add: %d, gpus: 8, gpu_types: [H20]}}}]"
    )
    requests.write_text(text % 1)
    (answer,) = line.json("plan", "--against", "live", str(requests), *REDIS)
    assert ("placed", "grown", False) == (answer["status"], answer["reason"], answer["groups"][0]["new"])
    requests.write_text(text % 2)
    (answer,) = line.json("plan", "--against", "live", str(requests), *REDIS)
    assert ("partial", {"decode": 1}) == (answer["status"], answer["shortfall"])
    assert before == asyncio.run(inventory.read("default"))


def test_plan_against_live_takes_no_fleet_file(line: CommandLine, tmp_path: Path) -> None:
    """Two files with --against live, or one without, are refused with what to write."""
    path = tmp_path / "requests.yaml"
    path.write_text("requests: []")
    for words, said in ((("--against", "live", str(path), str(path)), "takes REQUESTS.yaml alone"), ((str(path),), "takes FLEET.yaml and")):
        refused = line("plan", *words, *REDIS)
        assert (2, True) == (refused.exit_code, said in refused.stderr)
    unknown = line("plan", "--against", "live", "--fleet", "other", str(path), *REDIS)
    assert (2, True) == (unknown.exit_code, "has no inventory yet" in unknown.stderr)
