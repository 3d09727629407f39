"""Is what an engine exposes enough? Which signal each figure carries, and how to turn on the ones that are missing. Pure.

Sources, read in November 2026: vLLM docs, "vllm serve" and "Metrics"; SGLang docs, "Production Metrics"; TensorRT-LLM,
tensorrt_llm/metrics/collector.py and serve/openai_server.py; Dynamo 1.6 docs, "Environment Variables" and the pages of its backends;
llama.cpp, tools/server/README.md; TGI docs, "Metrics"; dcgm-exporter, etc/default-counters.csv.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from heteroscale.contracts.telemetry import InstanceSample


class Need(enum.StrEnum):
    """What it means that a figure is missing."""

    REQUIRED = "required"  # the default signal cannot be made
    GUARD = "guard"  # a latency guard cannot be used
    USEFUL = "useful"  # another metric, or a diagnosis, cannot be had


class Finding(NamedTuple):
    """One figure of a sample: whether it is there, what it is for, and the cure if it is not."""

    figure: str
    present: bool
    need: Need
    carries: str
    cure: str | None


class _Figure(NamedTuple):
    need: Need
    carries: str
    present: Callable[[InstanceSample], bool]


_FIGURES: Final[Mapping[str, _Figure]] = {
    "generation_tokens": _Figure(Need.REQUIRED, "decode_tps, the default signal", lambda one: one.generation_tokens is not None),
    "prompt_tokens": _Figure(Need.USEFUL, "prefill_tps", lambda one: one.prompt_tokens is not None),
    "cached_prompt_tokens": _Figure(Need.USEFUL, "prefill_missed_tps", lambda one: one.cached_prompt_tokens is not None),
    "ttft": _Figure(Need.GUARD, "the TTFT guard", lambda one: one.ttft is not None),
    "tbt": _Figure(Need.GUARD, "the TBT guard", lambda one: one.tbt is not None),
    "requests_finished": _Figure(Need.USEFUL, "request rates", lambda one: one.requests_finished is not None),
    "running": _Figure(Need.USEFUL, "sample age, drains that end when work has", lambda one: one.running is not None),
    "waiting": _Figure(Need.USEFUL, "queue lengths", lambda one: one.waiting is not None),
    "kv_usage": _Figure(Need.USEFUL, "kv_usage", lambda one: one.kv_usage is not None),
    "gpu_util": _Figure(Need.USEFUL, "gpu_util", lambda one: one.gpu_util is not None),
    "sm_active": _Figure(Need.USEFUL, "sm_active", lambda one: one.sm_active is not None),
    "started_at_ms": _Figure(Need.USEFUL, "restarts told apart from counters that go back", lambda one: one.started_at_ms is not None),
}
_ANY: Final = {
    "gpu_util": "give the node's DCGM exporter: --dcgm http://HOST:9400/metrics",
    "sm_active": "uncomment DCGM_FI_PROF_SM_ACTIVE in the DCGM exporter's counters file (off by default), and give --dcgm",
    "started_at_ms": "nothing to turn on: resets are then told by counters alone",
}
_FIRST_REQUEST: Final = "where that is so, the series appears with the first request"  # prometheus_client shows labelled series once used
_SGLANG: Final = "start the server with --enable-metrics"
_TRTLLM: Final = (
    "serve with `return_perf_metrics: true` in the options file (trtllm-serve --config, in older releases --extra_llm_api_options)"
)
_TRTLLM_LOOP: Final = (
    "serve with `return_perf_metrics: true` and `enable_iter_perf_stats: true` in the options file (trtllm-serve --config)"
)
_CURES: Final[Mapping[str, Mapping[str, str]]] = {
    "vllm": {
        "": "start the server without --disable-log-stats",
        "cached_prompt_tokens": "start the server without --no-enable-prefix-caching; the V0 engine has no such counter",
    },
    "sglang": {
        "": f"{_SGLANG}; {_FIRST_REQUEST}",
        "cached_prompt_tokens": f"{_SGLANG} and without --disable-radix-cache; the series appears with the first hit",
    },
    "trtllm": {"": f"{_TRTLLM}; {_FIRST_REQUEST}", "running": _TRTLLM_LOOP, "waiting": _TRTLLM_LOOP, "kv_usage": _TRTLLM_LOOP},
    "tgi": {
        "cached_prompt_tokens": "not exposed by this engine",
        "ttft": "not exposed by this engine; guard on tbt instead",
        "kv_usage": "not exposed by this engine",
    },
    "llamacpp": {"": "start the server with --metrics", "ttft": "not exposed by this engine", "tbt": "not exposed by this engine"},
    "dynamo-worker": {
        "": "its engine adds its own series to this page (DYN_SYSTEM_PORT): SGLang with --enable-metrics, TensorRT-LLM with "
        "--publish-events-and-metrics"
    },
    "dynamo-frontend": {"": "a frontend speaks for a whole pool: scrape each worker's own page for per-instance figures"},
    "triton": {"": "the Triton page has no token counters: scrape the TensorRT-LLM server's /prometheus/metrics instead"},
}


def findings(sample: InstanceSample, kind: str) -> list[Finding]:
    """Each figure of a sample of an engine of `kind`, in order of weight."""
    cures = _CURES.get(kind, {})
    found = []
    for name, figure in _FIGURES.items():
        present = figure.present(sample)
        cure = None if present else _ANY.get(name) or cures.get(name) or cures.get("") or "not exposed by this engine"
        found.append(Finding(name, present, figure.need, figure.carries, cure))
    return found


def is_enough(found: list[Finding]) -> bool:
    """Whether the default signal can be made."""
    return all(one.present for one in found if one.need is Need.REQUIRED)
