"""Recorded incidents, replayed: each verifies as identical, restarted or not, under any hash seed; the altered one does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from heteroscale.contracts.placements import InstanceState
from heteroscale.replay import archive
from heteroscale.replay.recorded import Recorded
from support import incidents

FOLDER = Path(__file__).parent / "bundles"
DIVERGES = incidents.DIVERGING.removesuffix(archive.SUFFIX)
GOLDEN = sorted(path.name.removesuffix(archive.SUFFIX) for path in FOLDER.glob(f"*{archive.SUFFIX}") if path.name != incidents.DIVERGING)
SEEDS = ("1", "2")
WAYS = ("undisturbed", "restarted")
RUN = """
import json, sys
from pathlib import Path
from heteroscale.replay import archive, verify
for path in map(Path, sys.argv[1:]):
    with archive.opened(path) as found:
        for way, every in (("undisturbed", None), ("restarted", 10)):
            print(json.dumps([path.name, way, verify.document(verify.verify(found, restart_every=every), 0.0)], sort_keys=True))
"""
Told = dict[tuple[str, str, str], Any]


@pytest.fixture(scope="module")
def told() -> Told:
    """Verdicts of all bundles by hash seed, name and way: one process a seed, both at once."""
    paths = [str(path) for path in sorted(FOLDER.glob(f"*{archive.SUFFIX}"))]
    processes = {
        seed: subprocess.Popen(
            [sys.executable, "-c", RUN, *paths], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in SEEDS
    }
    found: Told = {}
    for seed, process in processes.items():
        output, _ = process.communicate()
        assert 0 == process.returncode
        for line in output.splitlines():
            name, way, document = json.loads(line)
            found[seed, name.removesuffix(archive.SUFFIX), way] = document
    return found


def test_every_story_has_its_bundle() -> None:
    """The stories that the simulator plays are all recorded."""
    assert set(incidents.STORIES) <= set(GOLDEN)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", GOLDEN)
def test_same_in_same_out(told: Told, name: str, way: str) -> None:
    """SAME-IN-SAME-OUT: every window, decision and placement comes out byte for byte, also if memory is lost at every tenth step."""
    for seed in SEEDS:
        document = told[seed, name, way]
        assert ("identical", 0) == (document["verdict"], document["exit_code"])
        assert all(stage["compared"] >= 30 and stage["first"] is None for stage in document["stages"])


@pytest.mark.parametrize("way", WAYS)
def test_the_altered_bundle_says_where_it_diverges(told: Told, way: str) -> None:
    """The decision that was altered is named, with its place, and the field that differs; the other stages are untouched."""
    document = told[SEEDS[0], DIVERGES, way]
    signals, decisions, placements = document["stages"]
    assert ("diverged", 1) == (document["verdict"], document["exit_code"])
    assert f"incident.decisions.v1/2@{incidents.DIVERGES_AT}" == decisions["first"]["place"]
    assert ["after.decode.replicas"] == [one["path"] for one in decisions["first"]["output"]]
    assert ("identical", "identical") == (signals["outcome"], placements["outcome"])


def test_the_hash_seed_does_not_matter(told: Told) -> None:
    """All verdicts are the same documents under two hash seeds."""
    first, second = ({key[1:]: document for key, document in told.items() if key[0] == seed} for seed in SEEDS)
    assert first == second
    assert len(first) == 2 * (len(GOLDEN) + 1)


def test_stories_are_what_they_are_called() -> None:
    """The bundles hold what they are named after: a new generation, missing data, a shortfall."""
    held = {}
    for name in ("redis-loss", "outage", "shortage", "burst"):
        with archive.opened(FOLDER / f"{name}{archive.SUFFIX}") as found:
            recorded = Recorded(found)
            held[name] = recorded, list(recorded.placements), list(recorded.windows["chat"])
    assert {1, 2} == {one.message.gen for one in held["redis-loss"][1]}
    assert any(window.message.roles["decode"].instances.silent for window in held["outage"][2])
    assert any(one.message.shortfall for one in held["shortage"][1])
    ready = [
        sum(placed.state is InstanceState.READY for group in one.message.groups for placed in group.instances) for one in held["burst"][1]
    ]
    assert max(ready) > ready[len(ready) // 2] > 0
