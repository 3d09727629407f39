"""replay(capture(run(seed))) is identical, for any seed, load and mishap."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from heteroscale.replay import bundle, verify
from heteroscale.replay.verdict import Outcome, StageName
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from support import incidents

MISHAPS = ["node:n03@3m+4m", "instance:chat/prefill@4m", "s1:a1@3m", "silence:chat@4m+3m", "garbage:chat/decode@4m+2m", "late:chat@3m+3m"]


@settings(max_examples=4, phases=[Phase.explicit, Phase.generate])
@given(
    seed=st.integers(0, 1_000),
    loads=st.lists(st.integers(1, 8), min_size=3, max_size=3),
    mishaps=st.lists(st.sampled_from(MISHAPS), max_size=2, unique=True),
    nodes=st.integers(4, 16),
    since_min=st.sampled_from([-60, 1, 4]),
)
def test_a_captured_run_replays_identically(seed: int, loads: list[int], mishaps: list[str], nodes: int, since_min: int) -> None:
    """SAME-IN-SAME-OUT, from the world's seed to the replay's verdict, from the beginning or from the middle."""
    logs.configure(LogFormat.JSON, LogLevel.ERROR)
    rows = [f"{at * 180},{load * 400},{load * 400_000},{load * 80_000}\n" for at, load in enumerate(loads)]
    here = incidents.scene(incidents.HEAD + "".join(rows), *mishaps, minutes=9, nodes=nodes, seed=seed)
    with TemporaryDirectory() as own:

        async def run() -> None:
            await incidents.bundle_of(await incidents.played(here), Path(own) / "b", since_min=since_min)

        asyncio.run(run())
        verdict = verify.verify(bundle.open_folder(Path(own) / "b"))
    assert (Outcome.IDENTICAL, None) == (verdict.outcome, verdict.first)
    assert verdict.stage(StageName.DECISIONS).compared >= 4
