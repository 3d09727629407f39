"""What leaves the house: whatever nodes are called, no name is left in any byte of a redacted bundle, and it still verifies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from heteroscale.replay import bundle, frames, verify
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.capture import Wanted, capture
from heteroscale.replay.manifest import Span
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.redact import words
from heteroscale.replay.verdict import Outcome, StageName
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from support import incidents

MISHAPS = ["instance:chat/prefill@4m", "s1:a1@3m", "garbage:chat/decode@4m+2m"]
NAMES = st.text("abn-.019", min_size=4, max_size=12).map(lambda text: f"h{text}x")  # many that are parts of each other


@settings(max_examples=2, phases=[Phase.explicit, Phase.generate])
@given(
    nodes=st.lists(NAMES, min_size=12, max_size=16, unique=True),
    mishap=st.sampled_from(MISHAPS),
    since_min=st.sampled_from([-60, 3]),
    seed=st.integers(0, 1_000),
)
def test_a_redacted_run_names_nobody_and_verifies(nodes: list[str], mishap: str, since_min: int, seed: int) -> None:
    """NO-NAME-LEFT: from the beginning or from the middle, with failures, in every stage."""
    logs.configure(LogFormat.JSON, LogLevel.ERROR)
    rows = "".join(f"{at * 180},{load * 400},{load * 400_000},{load * 80_000}\n" for at, load in enumerate((2, 7, 3)))
    here = incidents.scene(incidents.HEAD + rows, mishap, minutes=9, nodes=nodes, seed=seed)
    span = Span(from_ms=incidents.START_MS + since_min * 60_000, to_ms=incidents.START_MS + 3_600_000)
    with TemporaryDirectory() as own:
        plain, outside = Path(own) / "plain", Path(own) / "outside"

        async def run() -> None:
            log = await incidents.played(here)
            await capture(log, Wanted(here.prefix, span), plain)
            fields = ("source", "actuator", "detail", "message", "payload", "applied_by", "reason")
            await capture(log, Wanted(here.prefix, span, (), fields, ("node", "instance")), outside)

        asyncio.run(run())
        names = set(nodes) | instances(bundle.open_folder(plain))
        content = everything(outside)
        verdict = verify.verify(bundle.open_folder(outside))
    assert [] == [name for name in sorted(names - words()) if name.encode() in content]
    assert (Outcome.IDENTICAL, None) == (verdict.outcome, verdict.first)
    assert verdict.stage(StageName.PLACEMENTS).identical >= 4


def instances(found: Bundle) -> set[str]:
    """Every instance that was ever placed."""
    recorded = Recorded(found)
    return {placed.id for one in recorded.placements for group in one.message.groups for placed in group.instances}


def everything(folder: Path) -> bytes:
    """All bytes of a bundle, decompressed."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return b"".join(b"".join(frames.blocks(path)) if path.suffix == ".zst" else path.read_bytes() for path in files)
