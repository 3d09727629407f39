"""An engine that tells heteroscale about itself: once a second, its counters since start.

heteroscale servers up && heteroscale topics create
python examples/engine_loop.py --seconds 30 &
heteroscale telemetry tail --service chat-70b --follow
"""

from __future__ import annotations

import argparse
import random
import time

from heteroscale.contracts.telemetry import EngineState, InstanceSample
from heteroscale.runtime import settings
from heteroscale.servers import chain
from heteroscale.telemetry.publisher import Publisher, PublisherSettings
from heteroscale.telemetry.publisher_histogram import LatencyHistogram


class Engine:
    """Stands for yours: it makes tokens and keeps counters."""

    def __init__(self) -> None:
        self.started_at_ms = time.time_ns() // 1_000_000
        self.generation_tokens = self.prompt_tokens = self.requests = 0
        self.tbt = LatencyHistogram("tbt", [0.01, 0.02, 0.03, 0.05, 0.08, 0.12])

    def step(self) -> None:
        """A tenth of a second of decoding."""
        latency_s = random.uniform(0.015, 0.06)
        self.generation_tokens += 400
        self.prompt_tokens += 150
        self.requests += 1
        self.tbt.observe(latency_s, times=400)


def main() -> None:
    """Decode for a while and publish once a second."""
    options = argparse.ArgumentParser(description="An engine that publishes its telemetry.")
    options.add_argument("--service", default="chat-70b")
    options.add_argument("--instance", default="decode-0")
    options.add_argument("--seconds", type=float, default=30)
    given = options.parse_args()
    where = settings.load(PublisherSettings)  # HETEROSCALE_KAFKA, HETEROSCALE_PREFIX, ...
    if where.kafka is None and (server := chain.running().get("kafka")) is not None:
        where = settings.replaced(where, kafka=server.address)  # what `heteroscale servers up` left running

    engine = Engine()
    with Publisher(given.service, where, source="engine-loop", layouts={"tbt": engine.tbt.edges_s}) as publisher:
        end = time.monotonic() + given.seconds
        while time.monotonic() < end:
            for _ in range(10):
                engine.step()
                time.sleep(0.1)
            publisher.publish(
                InstanceSample(
                    instance=given.instance,
                    role="decode",
                    state=EngineState.SERVING,
                    at_ms=time.time_ns() // 1_000_000,
                    started_at_ms=engine.started_at_ms,
                    generation_tokens=engine.generation_tokens,
                    prompt_tokens=engine.prompt_tokens,
                    requests_finished=engine.requests,
                    running=8,
                    tbt=engine.tbt.snapshot(),
                )
            )
    print(publisher.stats)


if __name__ == "__main__":
    main()
