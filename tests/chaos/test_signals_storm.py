"""Two Faust workers on real Kafka, one of which is killed or frozen at a random moment, again and again, by seed."""

from __future__ import annotations

import asyncio
import random
import signal
from pathlib import Path

import pytest

from heteroscale.bus import catalogue
from support import brokers, signals_stage
from support.processes import Fleet, Service

pytestmark = [pytest.mark.chaos, pytest.mark.kafka]

ROUNDS = 15
STRETCH_S = 120  # of telemetry, a round
FROZEN_S = 14.0  # longer than the group waits for a member: it wakes up to partitions that are somebody else's


@pytest.mark.timeout(420)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_window_is_lost_or_told_otherwise(kafka: str, prefix: str, tmp_path: Path, seed: int) -> None:
    """SAME-IN-SAME-OUT, NOTHING-LOST: the union of windows equals an undisturbed run's, byte for byte, whatever was killed when."""
    chance = random.Random(seed)

    async def blow(fleet: Fleet, workers: list[Service]) -> None:
        """Kill one, or freeze it long enough to be replaced; a new one takes the place of a killed one."""
        victim = chance.choice(workers)
        await asyncio.sleep(chance.uniform(0.0, 2.5))
        if chance.random() < 0.2:
            victim.signal(signal.SIGSTOP)
            await asyncio.sleep(FROZEN_S)
            victim.signal(signal.SIGCONT)
            return
        victim.signal(signal.SIGKILL)
        workers[workers.index(victim)] = fleet.start("signals", wait=False)

    async def whole() -> None:
        log = brokers.build_log(kafka, prefix)
        try:
            await catalogue.create(log, prefix, keep_forever=True)
            with Fleet(signals_stage.environment(kafka, prefix), tmp_path) as fleet:
                workers = [fleet.start("signals", wait=False), fleet.start("signals", wait=False)]
                await asyncio.to_thread(fleet.await_ready, workers[0])
                for at in range(ROUNDS):
                    seconds = range(at * STRETCH_S, (at + 1) * STRETCH_S)
                    await asyncio.gather(signals_stage.produce(log, prefix, seconds, chance), blow(fleet, workers))
                workers = [each if each.process.poll() is None else fleet.start("signals", wait=False) for each in workers]
                assert ROUNDS * STRETCH_S // 15 * 3 < await signals_stage.compare(log, prefix, within_s=90.0)
        finally:
            await log.close()

    asyncio.run(whole())
