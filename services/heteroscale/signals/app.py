"""The signals service on Kafka: a Faust worker around the partitions it is given. The only module that knows Faust.

Faust is transport, partitioning and rebalancing here: raw bytes come in, every event is acknowledged only once no window can need
its record any more, and so Faust's commits stay behind the lookback by themselves. Its tables are not used. A body that raises
would lose its event, so nothing is raised inside: the first error ends the worker, and whoever supervises it starts it again.

Without a Kafka address (embedded mode, tests, simulator) `worker` does the same over the in-memory log.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections import deque
from pathlib import Path
from typing import Any, Final

import faust
from aiokafka.errors import KafkaError

from heteroscale.bus import kafka_client
from heteroscale.bus.log import Record
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts.errors import HeteroscaleError, Retryable
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import logs
from heteroscale.runtime.context import Context
from heteroscale.runtime.settings import Switch
from heteroscale.runtime.ticker import Ticker
from heteroscale.signals import worker
from heteroscale.signals.holdings import Holdings
from heteroscale.signals.settings import SignalsSettings

SPECS_EVERY_S: Final = 0.1
HEARTBEATS_PER_SESSION: Final = 4
STOP_WITHIN_S: Final = 8.0


async def serve(context: Context, settings: SignalsSettings) -> None:
    """Run until `context.stop` is set. Raises Retryable when Kafka goes away: a new start rebuilds everything from the log."""
    if context.bus is None or context.bus.kafka is None:
        await worker.serve(context, settings)
        return
    with tempfile.TemporaryDirectory(prefix="heteroscale-signals-") as own:
        running = _FaustWorker(context, settings, context.bus, Path(settings.data_dir or own))
        await running.run()


def build_app(group: str, bus: BusSettings, settings: SignalsSettings, data_dir: Path) -> faust.App:
    """A Faust app that transports raw bytes and nothing else: no web server, no tables, no leader election, no topics of its own."""
    session_s = bus.session_timeout_ms / 1_000
    return faust.App(
        group,
        broker=[f"kafka://{server}" for server in (bus.kafka or "").split(",")],
        broker_credentials=_credentials(bus),
        autodiscover=False,
        datadir=str(data_dir),
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        stream_wait_empty=False,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / HEARTBEATS_PER_SESSION,
        broker_commit_interval=settings.commit_every_ms / 1_000,
        broker_max_poll_records=settings.records_max,
        stream_buffer_maxsize=settings.records_max,
        producer_acks=-1,
        worker_redirect_stdouts=False,
    )


def _credentials(bus: BusSettings) -> Any:
    """Faust's form of the bus' security settings; null for plaintext."""
    arguments = kafka_client.connection(bus)
    tls = arguments.get("ssl_context")
    if bus.sasl_mechanism is None:
        return faust.SSLCredentials(tls) if tls is not None else None
    return faust.SASLCredentials(
        username=bus.sasl_username, password=bus.sasl_password, mechanism=bus.sasl_mechanism.value, ssl_context=tls
    )


class _FaustWorker:
    """One member of the group, in the event loop of the process."""

    def __init__(self, context: Context, settings: SignalsSettings, bus: BusSettings, data_dir: Path) -> None:
        self._context = context
        self._settings = settings
        self._holdings = Holdings(context)
        self._ticker = Ticker(context.log, context.prefix, registry=context.metrics)
        self._app = build_app(worker.group_of(context.prefix), bus, settings, data_dir)
        self._kept: dict[int, deque[Any]] = {}  # messages that are not acknowledged, a partition
        self._taken = asyncio.Event()  # Faust hands over events while the partitions are still being taken over
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._wire()

    async def run(self) -> None:
        """Until the context's stop, or the first failure, which is raised."""
        self._context.health.waiting(worker.CONDITION, "the topics and the specs")
        await self._holdings.check()
        tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._acknowledge()), asyncio.create_task(self._stopped())]
        if self._settings.ticker is Switch.ON:
            tasks.append(asyncio.create_task(self._ticker.run(self._context.stop)))
        try:
            try:
                await self._app.start()
            except (KafkaError, OSError) as error:
                raise Retryable(f"Faust: {error}") from error
            self._context.health.holds(worker.CONDITION)
            await asyncio.wait({*tasks, self._failed}, return_when=asyncio.FIRST_COMPLETED)
            for done in (self._failed, *tasks):
                if done.done():
                    done.result()
        finally:
            for task in tasks:
                task.cancel()
            await self._close()

    def _wire(self) -> None:
        app = self._app
        topic = app.topic(topic_name(self._context.prefix, Topic.TELEMETRY), key_type=bytes, value_type=bytes, value_serializer="raw")
        app.agent(topic, name="signals")(self._body)
        assigned: Any = app.on_partitions_assigned  # Faust's own type for a receiver fits no function
        revoked: Any = app.on_partitions_revoked
        assigned.connect(self._on_assigned, weak=False)
        revoked.connect(self._on_revoked, weak=False)

    async def _body(self, stream: Any) -> None:
        """Every record of the partitions held, in order. Never raises: an error here would lose the event."""
        try:
            async for event in stream.noack().events():
                message = event.message
                await self._taken.wait()
                kept = self._kept.get(message.partition)
                if kept is None:
                    continue
                record = Record(
                    message.topic, message.partition, message.offset, round(message.timestamp * 1_000), message.key, message.value
                )
                due = self._holdings.absorb(record)
                message.value = message.key = None  # what is kept until it may be acknowledged is its offset only
                kept.append(message)
                if due:
                    await self._holdings.publish()
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 (handed to whoever runs us, with its type)
            if not self._failed.done():
                self._failed.set_exception(error)
            await asyncio.Event().wait()

    async def _on_assigned(self, _app: Any, assigned: Any, **_signal: Any) -> None:
        try:
            partitions = sorted(at.partition for at in assigned)
            await self._holdings.take(partitions)
            self._kept = {partition: deque() for partition in partitions}
            self._ticker.hold(partitions)
            self._taken.set()
        except HeteroscaleError as error:
            if not self._failed.done():
                self._failed.set_exception(error)

    async def _on_revoked(self, _app: Any, revoked: Any, **_signal: Any) -> None:
        self._taken.clear()
        self._holdings.drop(self._holdings.held)
        self._kept = {}
        self._ticker.hold([])
        logs.logger(service=worker.CONDITION).info("partitions_revoked", partitions=sorted(at.partition for at in revoked))

    async def _follow(self) -> None:
        """Specs, as they come."""
        while True:
            await self._holdings.follow_specs()
            await asyncio.sleep(SPECS_EVERY_S)

    async def _acknowledge(self) -> None:
        """Let go of what no window can need any more, and show how far behind we are."""
        while True:
            await asyncio.sleep(self._settings.commit_every_ms / 1_000)
            await self._holdings.show_lag()
            for at, safe in self._holdings.safe_offsets().items():
                kept = self._kept.get(at.partition)
                while kept and kept[0].offset < safe:
                    kept.popleft().ack(self._app.consumer)

    async def _stopped(self) -> None:
        await self._context.stop.wait()

    async def _close(self) -> None:
        try:
            async with asyncio.timeout(STOP_WITHIN_S):
                await self._app.stop()
        except TimeoutError:
            logs.logger(service=worker.CONDITION).warning("faust_stop_timed_out", limit_s=STOP_WITHIN_S)
        await self._holdings.close()
