"""The Faust workers on real Kafka: killed, joined, fed garbage and a clock that steps back, they emit what an undisturbed run emits."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from heteroscale.bus import catalogue
from support import brokers, signals_stage
from support.processes import Fleet

pytestmark = pytest.mark.kafka


@pytest.mark.timeout(150)
def test_killed_worker_loses_no_window_and_none_comes_twice_with_other_content(kafka: str, prefix: str, tmp_path: Path) -> None:
    """SAME-IN-SAME-OUT, NOTHING-LOST: kill -9 one of two workers, another joins; the union equals an undisturbed run's, byte for byte."""
    chance = random.Random(20_261_123)

    async def whole() -> None:
        log = brokers.build_log(kafka, prefix)
        try:
            await catalogue.create(log, prefix, keep_forever=True)
            with Fleet(signals_stage.environment(kafka, prefix), tmp_path) as fleet:
                first = fleet.start("signals", wait=False)
                second = fleet.start("signals", wait=False)
                await asyncio.to_thread(fleet.await_ready, first)
                await asyncio.to_thread(fleet.await_ready, second)
                await signals_stage.produce(log, prefix, range(900), chance)
                await asyncio.sleep(chance.uniform(0.5, 1.5))
                await signals_stage.produce(log, prefix, range(900, 1_200), chance)
                first.signal(signal.SIGKILL)
                await signals_stage.produce(log, prefix, range(1_200, 1_350), chance)
                fleet.start("signals", wait=False)
                await signals_stage.produce(log, prefix, range(1_350, 1_500), chance)
                assert 4 * 90 < await signals_stage.compare(log, prefix, within_s=45.0)
                await signals_stage.committed_behind_the_lookback(log, kafka, prefix)
                second.signal(signal.SIGTERM)
                assert 0 == await asyncio.to_thread(second.process.wait, 25)
        finally:
            await log.close()

    asyncio.run(whole())
