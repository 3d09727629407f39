"""The exporter: scrapes engines, each at its own moment of the period, and publishes what is news as telemetry.v1.

A target that does not answer costs its own task and no other; pages are parsed on one thread, so that reading a large one does not make
the others miss their deadlines. An instance is live only as long as its own page answers: nothing is repeated for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, NamedTuple

import aiohttp
import msgspec
from structlog.typing import FilteringBoundLogger

from heteroscale.bus.pause import stopped_within
from heteroscale.contracts.errors import HeteroscaleError, Retryable
from heteroscale.contracts.names import short_hash
from heteroscale.contracts.telemetry import Samples
from heteroscale.runtime import logs, metrics
from heteroscale.runtime.clock import SYSTEM
from heteroscale.runtime.context import Context
from heteroscale.runtime.metrics import Metrics
from heteroscale.telemetry import dcgm, engines, export_fetch, export_sources, page, sample
from heteroscale.telemetry.export_fetch import Fetched, Outcome
from heteroscale.telemetry.export_settings import ExportSettings
from heteroscale.telemetry.export_sources import Source
from heteroscale.telemetry.export_targets import Target
from heteroscale.telemetry.freshness import Freshness
from heteroscale.telemetry.page import Page
from heteroscale.telemetry.publisher_pump import DrainLimit, Outbox, PublisherLimits, Pump
from heteroscale.telemetry.sample import Identity

LOOK_AGAIN_S: Final = 5.0  # for targets that came or went
CONNECTIONS_MAX: Final = 512
DRAIN_LIMIT_S: Final = 5.0
GPU_AGE_PERIODS: Final = 3  # older GPU figures are absent
ALIASES: Final = {"tensorrt-llm": "trtllm", "llama.cpp": "llamacpp"}


class Scraped(NamedTuple):
    """What came of one page; `read` where there is something to publish."""

    outcome: Outcome
    why: str = ""
    read: sample.Read | None = None


class Station:
    """One target, and what is remembered of it between pages."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self._memo = page.Memo()
        self._freshness = Freshness()
        self._layouts: dict[str, list[float]] = {}

    def read(self, body: bytes, at_ms: int, gpu_page: Page | None) -> Scraped:
        """A page into a sample. Pure but for what is remembered."""
        target = self.target
        parsed = page.parse(body, self._memo)
        kind = None if target.engine == "auto" else ALIASES.get(target.engine, target.engine)
        engine = engines.recognise(parsed, kind)
        if engine is None:
            return Scraped(Outcome.UNKNOWN, "no metric of " + ("a known engine" if kind is None else kind) + " is on this page")
        identity = Identity(instance=target.instance, role=target.role, at_ms=at_ms, gpu_type=target.gpu_type, gpus=target.gpus)
        gpu = None if gpu_page is None else dcgm.figures(_own_gpus(gpu_page, target), target.instance)
        found = sample.read(parsed, engine, identity, gpu)
        if not self._freshness.is_news(found.sample) and not engine.at_end:
            return Scraped(Outcome.STALE, f"it has work, and nothing on its page has moved since {self._freshness.moved_at_ms}")
        if found.layouts != self._layouts:
            self._layouts = found.layouts
        placed = msgspec.structs.replace(found.sample, node=target.node, group=target.group)
        return Scraped(Outcome.OK, read=sample.Read(placed, self._layouts))


class Exporter:
    """Scrapes until told to stop. `outbox` is where samples go."""

    def __init__(self, settings: ExportSettings, sources: Sequence[Source], outbox: Outbox, registry: Metrics) -> None:
        self._settings = settings
        self._sources = sources
        self._outbox = outbox
        self._registry = registry
        self._logger = logs.logger()
        self._gpu_pages: dict[str, tuple[Page, int]] = {}
        self._tasks: dict[Target | str, asyncio.Task[None]] = {}
        self._known: dict[int, list[Target]] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="pages")

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`."""
        async with export_fetch.session(CONNECTIONS_MAX) as client:
            try:
                while not stop.is_set():
                    self._follow(client, await self._look())
                    await stopped_within(stop, LOOK_AGAIN_S)
            finally:
                self._follow(client, [])
                for source in self._sources:
                    await source.close()
                self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self) -> list[Target]:
        """All targets there are; a source that cannot be asked keeps what it said last. Raises Rejected if it never said anything."""
        for number, source in enumerate(self._sources):
            try:
                self._known[number] = await source.targets()
            except HeteroscaleError as error:
                if number not in self._known and len(self._sources) == 1 and not isinstance(error, Retryable):
                    raise
                self._logger.warning("targets_unknown", error=str(error))
        return [target for number in sorted(self._known) for target in self._known[number]]

    def _follow(self, client: aiohttp.ClientSession, targets: Sequence[Target]) -> None:
        """Tasks for exactly these targets and the DCGM exporters they name."""
        wanted: set[Target | str] = {*targets, *(target.dcgm for target in targets if target.dcgm)}
        for gone in self._tasks.keys() - wanted:
            self._tasks.pop(gone).cancel()
        for new in wanted - self._tasks.keys():
            watch = self._watch_gpus(client, new) if isinstance(new, str) else self._watch(client, new)
            self._tasks[new] = asyncio.create_task(watch)
        self._registry.set(metrics.EXPORT_TARGETS, len(targets))
        self._registry.set(metrics.EXPORT_DROPPED, self._outbox.stats().dropped)

    async def _watch(self, client: aiohttp.ClientSession, target: Target) -> None:
        """One engine, for as long as it is a target."""
        station = Station(target)
        logger = self._logger.bind(url=target.url, instance=target.instance)
        last = Outcome.OK
        while True:
            await self._due(target.url)
            began_s = SYSTEM.monotonic_s()
            try:
                scraped = await self._scrape(client, station)
            except Exception:  # a page that breaks the reader must not end the watch over this engine
                logger.exception("page_broke_the_reader")
                scraped = Scraped(Outcome.ERROR)
            self._registry.add(metrics.EXPORT_SCRAPES, 1, outcome=scraped.outcome.value)
            self._registry.observe(metrics.EXPORT_SECONDS, SYSTEM.monotonic_s() - began_s)
            last = _told(logger, last, scraped)

    async def _scrape(self, client: aiohttp.ClientSession, station: Station) -> Scraped:
        target = station.target
        fetched = await self._fetch(client, target.url)
        if fetched.outcome is not Outcome.OK:
            return Scraped(fetched.outcome, fetched.why)
        at_ms = SYSTEM.now_ms()
        scraped = await self._parse(station, fetched.body, at_ms, self._gpu_page(target, at_ms))
        if scraped.read is not None:
            self._outbox.put(target.service, scraped.read.sample, scraped.read.layouts)
        return scraped

    async def _parse(self, station: Station, body: bytes, at_ms: int, gpu_page: Page | None) -> Scraped:
        return await asyncio.get_running_loop().run_in_executor(self._thread, station.read, body, at_ms, gpu_page)

    async def _watch_gpus(self, client: aiohttp.ClientSession, url: str) -> None:
        """One DCGM exporter, for as long as a target names it."""
        memo = page.Memo()
        logger = self._logger.bind(dcgm=url)
        last = Outcome.OK
        while True:
            await self._due(url)
            fetched = await self._fetch(client, url)
            if fetched.outcome is Outcome.OK:
                try:
                    parsed = await asyncio.get_running_loop().run_in_executor(self._thread, page.parse, fetched.body, memo)
                except Exception:  # a page that breaks the reader must not end the watch over this node
                    logger.exception("page_broke_the_reader")
                    continue
                self._gpu_pages[url] = (parsed, SYSTEM.now_ms())
            last = _told(logger, last, Scraped(fetched.outcome, fetched.why))

    async def _fetch(self, client: aiohttp.ClientSession, url: str) -> Fetched:
        settings = self._settings
        return await export_fetch.fetch(client, url, limit_s=settings.export_timeout_ms / 1_000, bytes_max=settings.export_page_bytes_max)

    async def _due(self, url: str) -> None:
        """Sleep until this address's moment of the period: the same each time, spread evenly over addresses."""
        every_ms = self._settings.export_every_ms
        phase_ms = int(short_hash(url), 16) % every_ms
        now_ms = SYSTEM.now_ms()
        await asyncio.sleep((every_ms - (now_ms - phase_ms) % every_ms) / 1_000)

    def _gpu_page(self, target: Target, now_ms: int) -> Page | None:
        found = None if target.dcgm is None else self._gpu_pages.get(target.dcgm)
        if found is None or now_ms - found[1] > GPU_AGE_PERIODS * self._settings.export_every_ms:
            return None
        return found[0]


async def serve(context: Context, settings: ExportSettings) -> None:
    """Scrape and publish until `context.stop`. Raises Rejected for settings that name no target."""
    outbox = Outbox(settings.export_source, PublisherLimits())
    exporter = Exporter(settings, export_sources.sources(settings), outbox, context.metrics)
    drain_limit = DrainLimit(DRAIN_LIMIT_S)
    pumping = asyncio.create_task(Pump(outbox, context.log, context.prefix, PublisherLimits().linger_ms).run(context.stop, drain_limit))
    try:
        await exporter.run(context.stop)
        await pumping
    finally:
        pumping.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await pumping


async def once(settings: ExportSettings) -> list[tuple[Target, Scraped, Samples | None]]:
    """Each target's page, fetched now, and the record it makes. Raises Rejected, Retryable."""
    targets: list[Target] = []
    for source in export_sources.sources(settings):
        try:
            targets += await source.targets()
        finally:
            await source.close()
    limit_s, bytes_max = settings.export_timeout_ms / 1_000, settings.export_page_bytes_max

    async def one(client: aiohttp.ClientSession, target: Target) -> tuple[Target, Scraped, Samples | None]:
        gpu_page = None
        if target.dcgm is not None:
            gpus = await export_fetch.fetch(client, target.dcgm, limit_s=limit_s, bytes_max=bytes_max)
            gpu_page = page.parse(gpus.body) if gpus.outcome is Outcome.OK else None
        fetched = await export_fetch.fetch(client, target.url, limit_s=limit_s, bytes_max=bytes_max)
        if fetched.outcome is not Outcome.OK:
            return target, Scraped(fetched.outcome, fetched.why), None
        scraped = Station(target).read(fetched.body, SYSTEM.now_ms(), gpu_page)
        return target, scraped, None if scraped.read is None else _record(settings, target, scraped.read)

    async with export_fetch.session(CONNECTIONS_MAX) as client:
        return list(await asyncio.gather(*(one(client, target) for target in targets)))


def _record(settings: ExportSettings, target: Target, read: sample.Read) -> Samples:
    return Samples(service=target.service, source=settings.export_source, layouts=read.layouts, samples=[read.sample])


def _own_gpus(gpu_page: Page, target: Target) -> Page:
    """The node's page, cut down to the GPUs that are the target's own, where it says which."""
    if target.pod is not None:
        gpu_page = dcgm.of_pod(gpu_page, target.pod)
    return gpu_page if target.gpu_indices is None else dcgm.of_indices(gpu_page, target.gpu_indices)


def _told(logger: FilteringBoundLogger, last: Outcome, scraped: Scraped) -> Outcome:
    """One line when a target's outcome changes."""
    if scraped.outcome is not last:
        if scraped.outcome is Outcome.OK:
            logger.info("scraped_again")
        else:
            logger.warning("not_scraped", outcome=scraped.outcome.value, why=scraped.why)
    return scraped.outcome
