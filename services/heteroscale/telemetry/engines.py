"""What engines call things, as data: one table a version family. Names stand without their prefix and without `_total`.

Sources: the engines' own metric definitions and pages recorded from them. For each figure the names are in order of preference,
newest first; the first that is on the page is taken and never added to another. Per-request latencies
(`request_time_per_output_token_seconds`) and self-reported rates (`gen_throughput`) are left out on purpose.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from heteroscale.telemetry.page import Page, Series


class Reading(NamedTuple):
    """A metric by its bare name, and the labels that single out the series meant."""

    name: str
    where: tuple[tuple[str, str], ...] = ()


class Engine(NamedTuple):
    """Where one version family keeps what a sample needs. Empty: it does not have it.

    `markers`: at least one of them is on the page of this family (empty: any mapped name will do). `per_token`: its
    TBT histogram has one observation a token, so that TTFT count + TBT count is a count of tokens. `at_end`: all that it
    counts, it counts when a request ends, so that standing still says nothing while requests run.
    `pool`: the page speaks for a whole pool (a frontend), not for one instance.
    """

    kind: str
    family: str
    prefix: str
    markers: tuple[str, ...] = ()
    generation_tokens: tuple[Reading, ...] = ()
    prompt_tokens: tuple[Reading, ...] = ()
    cached_prompt_tokens: tuple[Reading, ...] = ()
    requests_finished: tuple[Reading, ...] = ()
    running: tuple[Reading, ...] = ()
    waiting: tuple[Reading, ...] = ()
    kv_usage: tuple[Reading, ...] = ()
    ttft: tuple[Reading, ...] = ()
    tbt: tuple[Reading, ...] = ()
    per_token: bool = False
    at_end: bool = False
    pool: bool = False


def _names(*names: str) -> tuple[Reading, ...]:
    return tuple(Reading(name) for name in names)


_VLLM_V0 = Engine(
    kind="vllm",
    family="vllm-v0",
    prefix="vllm",
    generation_tokens=_names("generation_tokens"),
    prompt_tokens=_names("prompt_tokens"),
    requests_finished=_names("request_success"),
    running=_names("num_requests_running"),
    waiting=_names("num_requests_waiting"),
    kv_usage=_names("gpu_cache_usage_perc"),
    ttft=_names("time_to_first_token_seconds"),
    tbt=_names("time_per_output_token_seconds"),
    per_token=True,
)
_VLLM_V1 = _VLLM_V0._replace(
    family="vllm-v1",
    markers=("kv_cache_usage_perc", "inter_token_latency_seconds_count", "prefix_cache_hits", "num_requests_waiting_by_reason"),
    cached_prompt_tokens=_names("prefix_cache_hits"),
    waiting=_names("num_requests_waiting", "num_requests_waiting_by_reason"),
    kv_usage=_names("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    tbt=_names("inter_token_latency_seconds", "time_per_output_token_seconds"),
)
_VLLM_0_32 = _VLLM_V1._replace(
    family="vllm-0.32",
    markers=("prompt_tokens_cached",),
    cached_prompt_tokens=_names("prompt_tokens_cached", "prefix_cache_hits"),
)
_SGLANG = Engine(
    kind="sglang",
    family="sglang",
    prefix="sglang",
    generation_tokens=_names("generation_tokens"),
    prompt_tokens=_names("prompt_tokens"),
    cached_prompt_tokens=_names("cached_tokens"),
    requests_finished=_names("num_requests"),
    running=_names("num_running_reqs"),
    waiting=_names("num_queue_reqs"),
    kv_usage=_names("token_usage"),
    ttft=_names("time_to_first_token_seconds"),
    tbt=_names("inter_token_latency_seconds", "time_per_output_token_seconds"),
    per_token=True,
)
_TRTLLM = Engine(
    kind="trtllm",
    family="trtllm",
    prefix="trtllm",
    generation_tokens=_names("generation_tokens"),
    prompt_tokens=_names("prompt_tokens"),
    cached_prompt_tokens=_names("prompt_cached_tokens"),
    requests_finished=_names("request_success"),
    running=_names("num_requests_running"),
    waiting=_names("num_requests_waiting"),
    kv_usage=_names("kv_cache_utilization"),
    ttft=_names("time_to_first_token_seconds"),
    tbt=_names("time_per_output_token_seconds"),
    at_end=True,
)
_TGI = Engine(
    kind="tgi",
    family="tgi",
    prefix="tgi",
    generation_tokens=_names("request_generated_tokens_sum"),
    prompt_tokens=_names("request_input_length_sum"),
    requests_finished=_names("request_count", "request_success"),
    running=_names("batch_current_size"),
    waiting=_names("queue_size"),
    tbt=_names("request_mean_time_per_token_duration"),
    at_end=True,
)
_LLAMACPP = Engine(
    kind="llamacpp",
    family="llamacpp",
    prefix="llamacpp",
    generation_tokens=_names("tokens_predicted"),
    prompt_tokens=_names("prompt_tokens"),
    running=_names("requests_processing"),
    waiting=_names("requests_deferred"),
    kv_usage=_names("kv_cache_usage_ratio"),
    at_end=True,
)
_DYNAMO_WORKER = Engine(
    kind="dynamo-worker",
    family="dynamo-worker",
    prefix="dynamo_component",
    requests_finished=_names("requests"),
    running=_names("inflight_requests"),
    kv_usage=_names("kvstats_gpu_cache_usage_percent", "gpu_cache_usage_percent"),
)
_DYNAMO_FRONTEND = Engine(
    kind="dynamo-frontend",
    family="dynamo-frontend",
    prefix="dynamo_frontend",
    generation_tokens=_names("output_tokens", "output_sequence_tokens_sum"),
    prompt_tokens=_names("input_sequence_tokens_sum"),
    cached_prompt_tokens=_names("cached_tokens_sum"),
    requests_finished=_names("requests"),
    running=_names("inflight_requests", "active_requests"),
    waiting=_names("queued_requests"),
    ttft=_names("time_to_first_token_seconds"),
    tbt=_names("inter_token_latency_seconds"),
    pool=True,
)
_TRITON = Engine(
    kind="triton",
    family="triton",
    prefix="nv",
    requests_finished=_names("inference_request_success"),
    markers=("trt_llm_request_metrics", "trt_llm_kv_cache_block_metrics"),
    running=(Reading("trt_llm_request_metrics", (("request_type", "scheduled"),)),),
    waiting=(Reading("trt_llm_request_metrics", (("request_type", "waiting"),)),),
    kv_usage=(Reading("trt_llm_kv_cache_block_metrics", (("kv_cache_block_type", "fraction"),)),),
)

# Engines before what stands in front of them, newer families before older: the first that fits a page is taken.
ENGINES: Final = (
    _VLLM_0_32,
    _VLLM_V1,
    _VLLM_V0,
    _SGLANG,
    _TRTLLM,
    _TGI,
    _LLAMACPP,
    _DYNAMO_WORKER,
    _DYNAMO_FRONTEND,
    _TRITON,
)
KINDS: Final = tuple(dict.fromkeys(engine.kind for engine in ENGINES))


class Index:
    """A page's series by bare name, whatever stands before the engine's prefix (`ray_vllm:`) and whichever separator is used."""

    def __init__(self, page: Page, prefix: str) -> None:
        pattern = re.compile(rf"(?:^|_){re.escape(prefix)}_(?P<bare>.+)$")
        variants: dict[str, list[str]] = {}
        for name in page.series:
            found = pattern.search(name.replace(":", "_"))
            if found is not None:
                variants.setdefault(found["bare"].removesuffix("_total"), []).append(name)
        self._series = {bare: page.series[min(names, key=_preference)] for bare, names in variants.items()}

    def find(self, reading: Reading) -> list[Series]:
        """The series of one reading; empty if the page has none."""
        return [series for series in self._series.get(reading.name, ()) if all(pair in series.labels for pair in reading.where)]

    def __contains__(self, bare: str) -> bool:
        return bare in self._series


def recognise(page: Page, kind: str | None = None) -> Engine | None:
    """The version family that a page is of, among those of `kind` if that is given; null if it has no metric that is known."""
    for engine in ENGINES:
        if kind is None or engine.kind == kind or engine.kind.startswith(f"{kind}-"):
            index = Index(page, engine.prefix)
            if any(name in index for name in engine.markers or _mapped(engine)):
                return engine
    return None


def _mapped(engine: Engine) -> list[str]:
    plain = [
        *engine.generation_tokens,
        *engine.prompt_tokens,
        *engine.cached_prompt_tokens,
        *engine.requests_finished,
        *engine.running,
        *engine.waiting,
        *engine.kv_usage,
    ]
    histograms = (*engine.ttft, *engine.tbt)
    return [reading.name for reading in plain] + [reading.name + suffix for reading in histograms for suffix in ("_bucket", "_count")]


def _preference(name: str) -> tuple[bool, int, str]:
    """Of several spellings of one metric on a page: the counter's own name, the shortest, the colon before the underscore."""
    return (not name.endswith("_total"), len(name), name)
