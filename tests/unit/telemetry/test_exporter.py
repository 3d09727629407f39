"""The exporter over loopback: many engines, hostile ones among them, and every figure where it belongs."""

from __future__ import annotations

import asyncio
import functools
import itertools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from heteroscale.bus import scan
from heteroscale.bus.catalogue import create
from heteroscale.bus.log import Log
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.telemetry import EngineState, Histogram, InstanceSample, Samples
from heteroscale.contracts.topics import Topic, topic_name
from heteroscale.runtime import metrics
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.telemetry import export, export_sources, export_targets
from heteroscale.telemetry import page as pages
from heteroscale.telemetry.export_fetch import Outcome
from heteroscale.telemetry.export_settings import ExportSettings
from heteroscale.telemetry.freshness import Freshness
from support.fake_engines import FakeEngines, vllm_page

PAGES = Path(__file__).parents[2] / "data" / "metrics_pages"
HOSTILE = {
    "silent": Outcome.TIMEOUT,
    "trickle": Outcome.TIMEOUT,
    "endless": Outcome.TOO_LARGE,
    "not-http": Outcome.UNREACHABLE,
    "hangs-up": Outcome.UNREACHABLE,
    "cut-off": Outcome.UNREACHABLE,
    "redirects": Outcome.STATUS,
    "breaks": Outcome.STATUS,
    "bomb": Outcome.COMPRESSED,
    "garbage": Outcome.UNKNOWN,
    "missing": Outcome.STATUS,
}


def counting() -> Callable[[], bytes]:
    """A page whose counters grow with each request."""
    tokens = itertools.count(100, 100)
    return lambda: vllm_page(next(tokens))


async def published(log: Log, prefix: str) -> list[Samples]:
    """All records so far."""
    places = await scan.partitions_of(log, [topic_name(prefix, Topic.TELEMETRY)])
    return [codec.decode(Samples, record.value or b"") async for batch in scan.to_end(log, places) for record in batch]


async def exported(log: Log, settings: ExportSettings, enough: Callable[[Context], bool], limit_s: float = 20) -> Context:
    """Run the exporter until it is enough, then stop it as a signal would."""
    await create(log, "memory", keep_forever=True, topics=[Topic.TELEMETRY])
    context = Context(log=log, prefix="memory", health=Health())
    serving = asyncio.create_task(export.serve(context, settings))
    async with asyncio.timeout(limit_s):
        while not enough(context) and not serving.done():
            await asyncio.sleep(0.02)
    context.stop.set()
    await asyncio.wait_for(serving, 10)
    return context


def scrapes(context: Context, outcome: Outcome) -> float:
    return context.metrics.value(metrics.EXPORT_SCRAPES, outcome=outcome.value)


async def test_two_hundred_engines_and_ten_hostile_ones(memory_log: Log) -> None:
    """Each good engine is scraped each period, with growing counters and its histograms; the hostile cost only themselves."""
    async with FakeEngines() as engines:
        names = [f"e{n}/metrics" for n in range(200)]
        engines.pages = {name: counting() for name in names} | {"garbage": lambda: b"<html>502</html>" * 100}
        settings = ExportSettings(
            export_urls=",".join(engines.url(path) for path in (*names, *HOSTILE)),
            export_service="chat",
            export_timeout_ms=700,
            export_page_bytes_max=500_000,
        )
        context = await exported(memory_log, settings, lambda context: scrapes(context, Outcome.OK) >= 600)
        asked = [engines.asked[name] for name in names]
    records = await published(memory_log, "memory")
    samples = [sample for record in records for sample in record.samples]
    assert min(asked) >= max(asked) - 2, "nobody was starved"
    assert scrapes(context, Outcome.OK) == len(samples)
    assert {outcome: scrapes(context, outcome) > 0 for outcome in set(HOSTILE.values())} == dict.fromkeys(HOSTILE.values(), True)
    assert len(records) < len(samples) / 5, "samples travel in batches"
    assert all(record.layouts["tbt"] == [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0] for record in records)
    moments = {sample.at_ms % 1_000 // 100 for sample in samples}
    assert len(moments) >= 8, "they are spread over the period"


async def test_one_instance_is_told_apart_from_another(memory_log: Log, tmp_path: Path) -> None:
    """Identity, place and GPU figures come from the targets file; the GPUs of a node are shared out by index."""
    dcgm = "\n".join(f'DCGM_FI_DEV_GPU_UTIL{{gpu="{n}",Hostname="n7"}} {n * 10}' for n in range(4)).encode() + b"\n"
    async with FakeEngines() as engines:
        engines.pages = {"a/metrics": counting(), "b/metrics": counting(), "dcgm": lambda: dcgm}
        file = _targets_file(engines, tmp_path / "targets.yaml")
        settings = ExportSettings(export_file=str(file), export_service="chat", export_gpu_type="H20", export_every_ms=100)
        await exported(memory_log, settings, lambda context: scrapes(context, Outcome.OK) >= 20)
    newest: dict[str, InstanceSample] = {
        sample.instance: sample for record in await published(memory_log, "memory") for sample in record.samples
    }
    one, other = newest["p-0"], newest["d-0"]
    assert ("prefill", "n7", "g1", "H20", 2) == (one.role, one.node, one.group, one.gpu_type, one.gpus)
    assert ("decode", None) == (other.role, other.group)
    assert (0.05, 0.25) == (one.gpu_util, other.gpu_util)


def _targets_file(engines: FakeEngines, path: Path) -> Path:
    dcgm = engines.url("dcgm")
    targets: list[dict[str, object]] = [
        {
            "url": engines.url("a/metrics"),
            "instance": "p-0",
            "role": "prefill",
            "node": "n7",
            "group": "g1",
            "gpus": 2,
            "gpu_indices": [0, 1],
        },
        {"url": engines.url("b/metrics"), "instance": "d-0", "node": "n7", "gpu_indices": [2, 3]},
    ]
    path.write_text(yaml.safe_dump({"targets": [target | {"dcgm": dcgm} for target in targets]}))
    return path


async def test_a_busy_engine_whose_counters_stand_still_says_nothing(memory_log: Log) -> None:
    """Its page answers, but it is as old as its counters; an idle one with the same counters is alive."""
    async with FakeEngines() as engines:
        engines.pages = {"stuck": lambda: vllm_page(500, running=3), "idle": lambda: vllm_page(500, running=0)}
        settings = ExportSettings(export_urls=f"{engines.url('stuck')},{engines.url('idle')}", export_every_ms=100)
        context = await exported(memory_log, settings, lambda context: scrapes(context, Outcome.STALE) >= 5)
    running = [sample.running for record in await published(memory_log, "memory") for sample in record.samples]
    assert 1 == running.count(3)
    assert running.count(0) >= 3
    assert scrapes(context, Outcome.OK) == len(running)


async def test_targets_that_come_and_go_are_followed(memory_log: Log, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is read again; one that cannot be read leaves the targets as they were."""
    monkeypatch.setattr(export, "LOOK_AGAIN_S", 0.05)
    file = tmp_path / "targets.yaml"
    async with FakeEngines() as engines:
        engines.pages = {"a": counting(), "b": counting()}
        file.write_text(f"targets: [{{url: '{engines.url('a')}'}}]")
        changes = iter([("a", 3, f"targets: [{{url: '{engines.url('b')}'}}]"), ("b", 3, "targets: {"), ("b", 8, "")])
        due = [next(changes)]
        at_change: list[int] = []

        def enough(_: Context) -> bool:
            path, count, text = due[0]
            if engines.asked.get(path, 0) < count:
                return False
            if not text:
                return True
            file.write_text(text)
            at_change.append(engines.asked["a"])
            due[0] = next(changes)
            return False

        await exported(memory_log, ExportSettings(export_file=str(file), export_every_ms=100), enough)
        assert engines.asked["a"] <= at_change[0] + 3


@pytest.mark.parametrize(
    ("settings", "code"),
    [
        (ExportSettings(), "no_targets"),
        (ExportSettings(export_urls="ftp://x/metrics"), "url"),
        (ExportSettings(export_urls="http://x:99999999/metrics"), "url"),
        (ExportSettings(export_dns="no-port"), "dns"),
        (ExportSettings(export_pods="nonsense"), "pods"),
        (ExportSettings(export_file="/nonexistent.yaml"), "unreadable"),
    ],
)
async def test_targets_that_can_never_be_scraped_are_refused(settings: ExportSettings, code: str) -> None:
    """With a code and a message that says what to write."""
    with pytest.raises(Rejected) as caught:
        await export.once(settings)
    assert code == caught.value.code


def test_pods_without_the_extra_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever installed heteroscale alone is told the extra's name."""
    monkeypatch.setitem(sys.modules, "heteroscale.telemetry.export_pods", None)
    with pytest.raises(Rejected, match=r"pip install 'heteroscale\[kubernetes\]'"):
        export_sources.sources(ExportSettings(export_pods="llm/app=vllm:8000"))


async def test_a_name_stands_for_all_its_addresses() -> None:
    """Each address becomes an instance, called by it."""
    (source,) = export_sources.sources(ExportSettings(export_dns="localhost:8000"))
    found = {target.instance: target.url for target in await source.targets()}
    assert "http://127.0.0.1:8000/metrics" == found["127.0.0.1:8000"]


@pytest.mark.parametrize(("url", "host"), [("http://n7:8000", "n7"), ("http://[fd00::7]:8000/metrics", "[fd00::7]")])
def test_the_gpus_of_an_engine_are_read_on_its_own_node(url: str, host: str) -> None:
    """One setting for all nodes; an address that is told stands before that of the engine."""
    settings = ExportSettings(export_dcgm="http://{host}:9400/metrics")
    assert f"http://{host}:9400/metrics" == export_targets.target(settings, url).dcgm
    assert "http://[fd00::1]:9400/metrics" == export_targets.target(settings, url, node_address="fd00::1").dcgm


def test_a_pods_gpus_are_told_by_its_name_and_not_by_its_instance_id() -> None:
    """DCGM names pods; the actuator gives them instance ids. GPUs of other pods on the node are never averaged in."""
    gpus = pages.parse(b'DCGM_FI_DEV_GPU_UTIL{gpu="0",pod="pod-b"} 10\nDCGM_FI_DEV_GPU_UTIL{gpu="1",pod="pod-c"} 90\n')

    def gpu_util(pod: str) -> float | None:
        station = export.Station(export_targets.target(ExportSettings(), "http://engine", instance="chat-p-1", pod=pod))
        found = station.read(vllm_page(5), 1, gpus).read
        return None if found is None else found.sample.gpu_util

    assert (0.1, None) == (gpu_util("pod-b"), gpu_util("pod-z"))


@pytest.mark.parametrize(
    ("url", "engine", "expected"),
    [
        ("10.0.0.7:8000", "auto", "http://10.0.0.7:8000/metrics"),
        ("http://h/", "trtllm", "http://h/prometheus/metrics"),
        ("https://h:8/own", "vllm", "https://h:8/own"),
    ],
)
def test_a_page_has_its_engines_usual_path(url: str, engine: str, expected: str) -> None:
    """What an address leaves out is what the engine does by default."""
    assert expected == export_targets.target(ExportSettings(export_engine=engine), url).url


async def test_real_pages_over_http_make_the_samples_of_telemetry_parse() -> None:
    """The same bytes, the same figures, whichever way they come."""
    real = {path.stem: path.read_bytes() for path in sorted(PAGES.glob("*scrape1.txt"))}
    async with FakeEngines() as engines:
        engines.pages = {name: functools.partial(bytes, body) for name, body in real.items()}
        settings = ExportSettings(export_urls=",".join(engines.url(name) for name in real), export_timeout_ms=5_000)
        outcomes = await export.once(settings)
    assert len(real) >= 2
    assert [Outcome.OK] * len(real) == [scraped.outcome for _, scraped, _ in outcomes]
    roles = [record.samples[0].role for _, _, record in outcomes if record is not None]
    assert ["frontend", "decode"] == roles


def test_freshness_is_told_by_what_moves() -> None:
    """News: the first look, any movement, an idle engine, an engine without counters. Not: work without movement."""
    freshness = Freshness()

    def is_news(at_ms: int, tokens: int | None, running: int, tbt: int | None = None, kv_usage: float | None = None) -> bool:
        histogram = None if tbt is None else Histogram(layout="tbt", counts=[tbt, 0], sum_s=None)
        return freshness.is_news(
            InstanceSample(
                instance="i",
                role="d",
                state=EngineState.SERVING,
                at_ms=at_ms,
                generation_tokens=tokens,
                running=running,
                tbt=histogram,
                kv_usage=kv_usage,
            )
        )

    looks: list[tuple[tuple[Any, ...], bool]] = [
        ((1, 5, 1), True),
        ((2, 5, 1), False),
        ((3, 6, 1), True),
        ((4, 6, 0), True),
        ((5, 6, 0), True),
        ((6, 6, 1), True),
        ((7, 6, 1), False),
        ((8, 6, 1, 4), True),
        ((9, 6, 1, 4), False),
        ((10, 6, 1, 5), True),
        ((11, 6, 1, 5, 0.25), True),
        ((12, None, 1), True),
        ((13, None, 1), True),
        ((14, 3, 1), True),
    ]
    assert [expected for _, expected in looks] == [is_news(*look) for look, _ in looks]
    assert 14 == freshness.moved_at_ms


@pytest.mark.parametrize(
    "page",
    [
        "trtllm_generation_tokens_total 500\ntrtllm_num_requests_running 3\n",
        "tgi_request_generated_tokens_sum 500\ntgi_batch_current_size 3\n",
        "llamacpp:tokens_predicted_total 500\nllamacpp:requests_processing 3\n",
    ],
)
def test_an_engine_that_counts_when_requests_end_is_not_silent_between(page: str) -> None:
    """Long answers: nothing moves for a minute, and the engine is alive."""
    station = export.Station(export_targets.target(ExportSettings(), "http://engine"))
    assert [Outcome.OK] * 3 == [station.read(page.encode(), at_ms, None).outcome for at_ms in (1, 2, 3)]
