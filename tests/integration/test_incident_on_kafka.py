"""An incident on real Kafka, from the run to the explanation, by the commands that a person types."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import pytest

from heteroscale.bus import connect
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.units import instant_text
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from heteroscale.simulator.loop.crew import Tasks
from heteroscale.simulator.loop.embedded import Embedded
from heteroscale.simulator.play import play
from support import incidents

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
COMMAND = str(Path(sys.executable).parent / "heteroscale")


class Done(NamedTuple):
    """What a command said."""

    code: int
    stdout: str
    stderr: str


async def run(environment: Mapping[str, str], *arguments: str) -> Done:
    """One command, beside whatever else goes on."""
    process = await asyncio.create_subprocess_exec(
        COMMAND, *arguments, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    stdout, stderr = await process.communicate()
    return Done(process.returncode or 0, stdout.decode(), stderr.decode())


async def test_captured_while_it_runs_and_after_replayed_and_explained(kafka: str, prefix: str, tmp_path: Path) -> None:
    """Both captures verify as identical; so does the log itself, without a bundle; a move is followed from samples to nodes.

    The first capture is taken while the topics are written, the second after the run.
    """
    logs.configure(LogFormat.JSON, LogLevel.ERROR)
    environment = {**os.environ, "HETEROSCALE_KAFKA": kafka, "HETEROSCALE_PREFIX": prefix}
    here = replace(incidents.scene(incidents.BURST, "node:n01@6m"), prefix=prefix)
    span = ("--from", instant_text(here.opens_at_ms), "--to", instant_text(here.ends_at_ms))
    during: list[asyncio.Task[Done]] = []
    hops = 0

    def on_hop(_view: object) -> None:
        nonlocal hops
        hops += 1
        if hops == 52:
            during.append(asyncio.create_task(run(environment, "incident", "capture", *span, "-o", str(tmp_path / "during"))))

    log = await connect.open_log(BusSettings(kafka=kafka))
    try:
        await play(here, log, Tasks(log, prefix, Embedded().services()), on_hop, timeout_s=30.0)
    finally:
        await log.close()
    assert 0 == (await during[0]).code, during[0].result().stderr
    bundle = str(tmp_path / "after.tar.zst")
    captured = await run(environment, "incident", "capture", *span, "-s", "chat", "-o", bundle)
    assert (0, f"next: heteroscale replay {bundle}") == (captured.code, captured.stdout.splitlines()[-1]), captured.stderr
    early, late, straight = await asyncio.gather(
        run(environment, "replay", str(tmp_path / "during"), "--json"),
        run(environment, "replay", bundle, "--json"),
        run(environment, "replay", *span, "--service", "chat", "--json"),
    )
    assert [0, 0, 0] == [done.code for done in (early, late, straight)], early.stderr + late.stderr + straight.stderr
    verdicts = [json.loads(done.stdout) for done in (early, late, straight)]
    assert ["identical"] * 3 == [verdict["verdict"] for verdict in verdicts]
    counts = [[stage["compared"] for stage in verdict["stages"]] for verdict in verdicts]
    assert all(few <= many for few, many in zip(counts[0], counts[1], strict=True))
    assert counts[0][1] >= 45
    assert counts[1] == counts[2]
    await _explained(environment, bundle, prefix)


async def _explained(environment: Mapping[str, str], bundle: str, prefix: str) -> None:
    """The first scale-out of the bundle, to its samples, its nodes and their acknowledgements."""
    shown = await run(environment, "incident", "show", bundle)
    move = next(line for line in shown.stdout.splitlines() if "scale-out" in line).split()[-1]
    told = await run(environment, "explain", bundle, move, "--json")
    document = json.loads(told.stdout)
    assert document["decision_at"].startswith(f"{prefix}.decisions.v1/")
    assert all(one["samples"] and one["first"].startswith(f"{prefix}.telemetry.v1/") for one in document["heard"])
    born = [one for one in document["moved"] if one["before"] is None]
    assert born
    assert all(one["nodes"] for one in born)
    assert {one["instance"] for one in born} <= {one["instance"] for one in document["said"] if one["kind"] == "ready"}
