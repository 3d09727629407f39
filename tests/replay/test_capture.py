"""Capturing: from live topics, from their middle, redacted, without losing or inventing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, TopicPartition
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.replay import bundle, frames, verify
from heteroscale.replay.capture import Wanted, capture
from heteroscale.replay.manifest import Span
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.verdict import Outcome, StageName
from heteroscale.runtime import logs
from heteroscale.runtime.settings import LogFormat, LogLevel
from support import incidents


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logs.configure(LogFormat.JSON, LogLevel.ERROR)


class ReadOnlyLog(MemoryLog):
    """A log that fails whoever writes to it or joins a group."""

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """Nobody may."""
        raise AssertionError(f"something wrote {entries}")


async def restored(folder: Path, kind: type[MemoryLog] = MemoryLog) -> MemoryLog:
    """A log that holds what a bundle holds, at the recorded offsets (which begin at 0)."""
    log = MemoryLog()
    found = bundle.open_folder(folder)
    await catalogue.create(log, found.prefix, keep_forever=True)
    for topic in Topic:
        entries = [Entry(one.topic, one.key, one.value, one.timestamp_ms, one.partition) for one in found.records(topic)]
        if entries:
            await log.append(entries)
    log.__class__ = kind
    return log


async def test_capturing_writes_nothing_to_the_log(burst: Path, tmp_path: Path) -> None:
    """A capture reads without a group and appends nothing; the same records give the same bundle."""
    log = await restored(burst, ReadOnlyLog)
    await incidents.bundle_of(log, tmp_path / "again")
    first, second = bundle.open_folder(burst), bundle.open_folder(tmp_path / "again")
    assert first.manifest.topics == second.manifest.topics
    assert {name: mark.sha256 for name, mark in first.manifest.files.items() if name.startswith("topics")} == {
        name: mark.sha256 for name, mark in second.manifest.files.items() if name.startswith("topics")
    }


@pytest.mark.parametrize("since_min", [-20, 2, 7, 14])
async def test_a_window_in_the_middle_starts_from_states_and_placements(burst: Path, tmp_path: Path, since_min: int) -> None:
    """A window that begins anywhere verifies as identical, from the last state before it."""
    log = await restored(burst)
    await incidents.bundle_of(log, tmp_path / "part", since_min=since_min, until_min=since_min + 6)
    found = bundle.open_folder(tmp_path / "part")
    verdict = verify.verify(found)
    assert (Outcome.IDENTICAL, None) == (verdict.outcome, verdict.first)
    assert verdict.stage(StageName.SIGNALS).compared >= 5
    assert found.parts(Topic.TELEMETRY)[2].records < bundle.open_folder(burst).parts(Topic.TELEMETRY)[2].records


async def test_capture_while_the_topics_are_being_written(tmp_path: Path) -> None:
    """Captures taken during a run are whole up to their end: each verifies as identical."""
    here = incidents.scene(incidents.BURST)
    made: list[asyncio.Task[object]] = []
    from heteroscale.simulator.loop.crew import Tasks  # noqa: PLC0415
    from heteroscale.simulator.loop.embedded import Embedded  # noqa: PLC0415
    from heteroscale.simulator.play import play  # noqa: PLC0415

    log, hops = MemoryLog(), 0

    def on_hop(_view: object) -> None:
        nonlocal hops
        hops += 1
        if hops in {30, 50, 60}:
            span = Span(from_ms=0, to_ms=incidents.START_MS + 3_600_000)
            made.append(asyncio.create_task(capture(log, Wanted(here.prefix, span), tmp_path / f"at-{hops}")))

    await play(here, log, Tasks(log, here.prefix, Embedded().services()), on_hop, timeout_s=30.0)
    await asyncio.gather(*made)
    compared = []
    for hop in (30, 50, 60):
        verdict = await asyncio.to_thread(verify.verify, bundle.open_folder(tmp_path / f"at-{hop}"))
        compared.append(verdict.stage(StageName.DECISIONS).compared)
        assert (Outcome.IDENTICAL, None) == (verdict.outcome, verdict.first)
    assert sorted(compared) == compared
    assert compared[0] < compared[-1]


def test_redaction_leaves_no_original_name_in_any_byte(burst: Path, tmp_path: Path) -> None:
    """Every node's and instance's name is gone from every file and key, and all stages still verify."""
    recorded = Recorded(bundle.open_folder(burst))
    names = {node for one in recorded.placements for group in one.message.groups for placed in group.instances for node in placed.nodes}
    names |= {placed.id for one in recorded.placements for group in one.message.groups for placed in group.instances}

    async def redact() -> None:
        log = await restored(burst)
        span = Span(from_ms=0, to_ms=incidents.START_MS + 3_600_000)
        await capture(log, Wanted(incidents.PREFIX, span, (), ("source", "detail"), ("node", "instance")), tmp_path / "outside")

    asyncio.run(redact())
    content = b"".join(
        b"".join(frames.blocks(path)) if path.suffix == ".zst" else path.read_bytes()
        for path in sorted((tmp_path / "outside").rglob("*"))
        if path.is_file()
    )
    assert [] == [name for name in sorted(names) if len(name) >= 4 and name.encode() in content]
    assert [] == [name for name in sorted(names) if f'"{name}"'.encode() in content]
    verdict = verify.verify(bundle.open_folder(tmp_path / "outside"))
    assert (Outcome.IDENTICAL, 65) == (verdict.outcome, verdict.stage(StageName.DECISIONS).identical)
    assert 71 == verdict.stage(StageName.PLACEMENTS).identical


async def test_pseudonyms_of_nodes_keep_the_plan(burst: Path, tmp_path: Path) -> None:
    """Pseudonyms keep the order of names, so placements verify under them as well."""
    log = await restored(burst)
    span = Span(from_ms=0, to_ms=incidents.START_MS + 3_600_000)
    await capture(log, Wanted(incidents.PREFIX, span, (), (), ("node",)), tmp_path / "outside")
    verdict = await asyncio.to_thread(verify.verify, bundle.open_folder(tmp_path / "outside"))
    assert (Outcome.IDENTICAL, 71) == (verdict.outcome, verdict.stage(StageName.PLACEMENTS).identical)


async def test_telemetry_that_was_deleted_is_named(burst: Path, tmp_path: Path) -> None:
    """A retention gap is input missing, with its instants, and never a divergence."""
    log = await restored(burst)
    at = TopicPartition(topic_name(incidents.PREFIX, Topic.TELEMETRY), 2)
    log._partitions[at].trim(40)  # as retention would
    await incidents.bundle_of(log, tmp_path / "gap", since_min=-20)
    verdict = await asyncio.to_thread(verify.verify, bundle.open_folder(tmp_path / "gap"))
    gaps = verdict.stage(StageName.SIGNALS).gaps
    assert (Outcome.MISSING, 3) == (verdict.outcome, verdict.exit_code)
    assert any(gap.to_ms is not None and "had been deleted" in gap.what for gap in gaps)


async def test_a_service_that_is_not_there_is_named_with_those_that_are(burst: Path, tmp_path: Path) -> None:
    """The message lists what there is."""
    log = await restored(burst)
    with pytest.raises(Rejected, match="there are chat"):
        await capture(log, Wanted(incidents.PREFIX, Span(from_ms=0, to_ms=1), ("chta",)), tmp_path / "none")
    with pytest.raises(Rejected, match="name the right --prefix"):
        await capture(log, Wanted("elsewhere", Span(from_ms=0, to_ms=1)), tmp_path / "none")


async def test_a_folder_that_holds_something_is_left_alone(burst: Path) -> None:
    """A capture never writes over what is there."""
    log = await restored(burst)
    with pytest.raises(Rejected, match="not an empty directory"):
        await incidents.bundle_of(log, burst)


async def test_a_time_without_records_is_refused_with_the_time_that_has_some(burst: Path, tmp_path: Path) -> None:
    """Nothing in the range is no identical replay of nothing; no folder is left."""
    log = await restored(burst)
    with pytest.raises(Rejected, match="there are decisions from 2026-01-04T23:") as caught:
        await capture(log, Wanted(incidents.PREFIX, Span(from_ms=0, to_ms=1)), tmp_path / "none")
    assert ("empty", False) == (caught.value.code, (tmp_path / "none").exists())


async def test_a_capture_that_fails_leaves_nothing(burst: Path, tmp_path: Path) -> None:
    """Half a bundle would stand in the way of the next try."""
    log = await restored(burst)
    span = bundle.open_folder(burst).manifest.window

    def fails(topic: str, _records: int) -> None:
        if topic == Topic.DECISIONS.value:
            raise Retryable("the log went away")

    with pytest.raises(Retryable):
        await capture(log, Wanted(incidents.PREFIX, span), tmp_path / "half", fails)
    assert not (tmp_path / "half").exists()
    await capture(log, Wanted(incidents.PREFIX, span), tmp_path / "half")
