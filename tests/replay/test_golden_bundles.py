"""Recorded incidents, replayed: each verifies as identical, restarted or not, under any hash seed; the altered one does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from heteroscale.contracts.placements import InstanceState
from heteroscale.replay import archive, verify
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.verdict import Outcome, StageName
from support import incidents

FOLDER = Path(__file__).parent / "bundles"
GOLDEN = sorted(path.name.removesuffix(archive.SUFFIX) for path in FOLDER.glob(f"*{archive.SUFFIX}") if path.name != incidents.DIVERGING)
SEEDS = """
import json, sys
from pathlib import Path
from heteroscale.replay import archive, verify
for path in sys.argv[1:]:
    with archive.opened(Path(path)) as found:
        print(json.dumps([path, verify.document(verify.verify(found), 0.0)], sort_keys=True))
"""


def test_every_story_has_its_bundle() -> None:
    """The stories that the simulator plays are all recorded."""
    assert set(incidents.STORIES) <= set(GOLDEN)


@pytest.mark.parametrize("restart_every", [None, 10], ids=["undisturbed", "restarted"])
@pytest.mark.parametrize("name", GOLDEN)
def test_same_in_same_out(name: str, restart_every: int | None) -> None:
    """SAME-IN-SAME-OUT: every window, decision and placement comes out byte for byte, also if memory is lost at every tenth step."""
    with archive.opened(FOLDER / f"{name}{archive.SUFFIX}") as found:
        verdict = verify.verify(found, restart_every=restart_every)
    assert (Outcome.IDENTICAL, None) == (verdict.outcome, verdict.first)
    assert all(stage.compared >= 30 for stage in verdict.stages)


def test_the_altered_bundle_says_where_it_diverges() -> None:
    """The decision that was altered is named, with its place, and the field that differs; the other stages are untouched."""
    with archive.opened(FOLDER / incidents.DIVERGING) as found:
        verdict = verify.verify(found)
    stage, first = verdict.first or pytest.fail("it did not diverge")
    assert (StageName.DECISIONS, f"incident.decisions.v1/2@{incidents.DIVERGES_AT}") == (stage.stage, first.place)
    assert ["after.decode.replicas"] == [one.path for one in first.output]
    assert (1, Outcome.IDENTICAL) == (verdict.exit_code, verdict.stage(StageName.PLACEMENTS).outcome)


@pytest.mark.parametrize("seed", ["1", "2"])
def test_the_hash_seed_does_not_matter(seed: str) -> None:
    """Verdicts are the same documents under two hash seeds, and as in this process."""
    paths = [str(FOLDER / f"{name}{archive.SUFFIX}") for name in ("redis-loss",)] + [str(FOLDER / incidents.DIVERGING)]
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    done = subprocess.run([sys.executable, "-c", SEEDS, *paths], env=environment, capture_output=True, text=True, check=True)
    told = dict(json.loads(line) for line in done.stdout.splitlines())
    here = {}
    for path in paths:
        with archive.opened(Path(path)) as found:
            here[path] = json.loads(json.dumps(verify.document(verify.verify(found), 0.0)))
    assert here == told


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
