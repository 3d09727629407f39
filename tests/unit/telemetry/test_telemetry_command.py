"""`heteroscale telemetry parse` on the real pages, as a person or a script calls it."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from heteroscale.cli.main import cli
from heteroscale.contracts import codec
from heteroscale.contracts.telemetry import Samples

PAGES = Path(__file__).parents[2] / "data" / "metrics_pages"
VLLM_0 = PAGES / "vllm_0.6_kubeai.prom"
VLLM_32 = PAGES / "vllmcpu0320_scrape3.txt"
SGLANG = PAGES / "sglang_docs_llama31_8b_overloaded.prom"
FRONTEND = PAGES / "dynamo161_frontend_scrape3.txt"
RAMP = PAGES / "vllm_timeseries_llama_run16.txt"
DCGM = PAGES / "dcgm_exporter_tesla_t4_datadog.prom"


def call(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(cli, ["telemetry", "parse", *(str(argument) for argument in arguments)])


def records(result: Result) -> list[Any]:
    """Its output, one JSON document a line."""
    return [json.loads(line) for line in result.stdout.splitlines()]


def sample(*arguments: str | Path) -> Any:
    """The one sample of one page."""
    result = call("--json", *arguments)
    assert 0 == result.exit_code, result.stderr
    (record,) = records(result)
    return record["samples"][0]


def chosen(document: Any, names: Sequence[str]) -> list[Any]:
    """Values of some fields."""
    return [document[name] for name in names]


COUNTS = ("generation_tokens", "prompt_tokens", "cached_prompt_tokens", "requests_finished", "running", "waiting", "kv_usage")


def test_a_vllm_v0_page() -> None:
    """Two models on one page are one instance; cached tokens are unknown to V0."""
    found = sample(VLLM_0)
    assert [2546, 90, None, 6, 3, 5, 0.0026235242675994863] == chosen(found, COUNTS)
    assert (9, 2537) == (sum(found["ttft"]["counts"]), sum(found["tbt"]["counts"]))
    assert 1_723_656_838_940 == found["started_at_ms"]


def test_a_vllm_0_32_page() -> None:
    """On a steady engine, generated tokens = first tokens + later tokens."""
    found = sample(VLLM_32)
    assert [5479, 19526, 0, 123, 1, 0] == chosen(found, COUNTS[:-1])
    assert 5479 == sum(found["ttft"]["counts"]) + sum(found["tbt"]["counts"])


def test_an_overloaded_sglang_page() -> None:
    """A third of all first tokens took longer than the last edge: they are in the +Inf bucket, not lost."""
    found = sample(SGLANG)
    assert [7_557_572, 8_128_902, None, None, 162, 2826, 0.28] == chosen(found, COUNTS)
    assert 11008 - 2513 == found["ttft"]["counts"][-1]
    assert 11008 == sum(found["ttft"]["counts"])


def test_a_dynamo_frontend_page() -> None:
    """A pool of two models: summed, and kept out of the roles P and D even when one is asked for."""
    found = sample(FRONTEND, "--role", "decode")
    assert ["frontend", 25025, 188_371] == chosen(found, ("role", "generation_tokens", "prompt_tokens"))


def test_a_page_with_headings_between_is_read_as_far_as_it_goes() -> None:
    """Every malformed line is named with file and line; the last values count."""
    result = call(RAMP, "--json")
    assert 0 == result.exit_code
    assert 9 == len(result.stderr.splitlines())
    assert f"{RAMP}:1: " in result.stderr
    assert 128 == records(result)[0]["samples"][0]["running"]


def test_gpu_figures_are_joined() -> None:
    """The idle T4: utilisation 0 is data, SM activity is not measured."""
    assert [0.0, None] == chosen(sample(VLLM_32, "--with-gpu", DCGM), ("gpu_util", "sm_active"))
    assert [None, None] == chosen(sample(VLLM_32), ("gpu_util", "sm_active"))


def test_defaults_are_as_published(tmp_path: Path) -> None:
    """Service, instance, role, time and state of a page about which nothing is said."""
    copy = tmp_path / "engine-7.prom"
    copy.write_text("vllm:num_requests_running 1\n", encoding="utf-8")
    os.utime(copy, ns=(0, 1_732_000_000_123_456_789))
    (record,) = records(call(copy, "--json"))
    assert ("samples", "default") == (record["kind"], record["service"])
    names = ("instance", "role", "at_ms", "state", "gpu_type", "gpus", "started_at_ms")
    assert ["engine-7", "decode", 1_732_000_000_123, "serving", None, None, None] == chosen(record["samples"][0], names)


def test_options_reach_the_sample() -> None:
    """Everything that a page does not say."""
    (record,) = records(
        call(
            *(VLLM_32, "--json", "--engine", "vllm", "--service", "chat", "--instance", "i9", "--role", "prefill", "--at-ms", "77"),
            *("--state", "draining", "--gpu-type", "H20", "--gpus", "8"),
        ),
    )
    assert "chat" == record["service"]
    names = ("instance", "role", "at_ms", "state", "gpu_type", "gpus")
    assert ["i9", "prefill", 77, "draining", "H20", 8] == chosen(record["samples"][0], names)


def test_every_line_is_a_telemetry_record() -> None:
    """One a page, in the order given, valid by the contract; stdout holds nothing else."""
    result = call(VLLM_0, SGLANG, FRONTEND, VLLM_32, "--json")
    decoded = [codec.decode(Samples, line) for line in result.stdout.splitlines()]
    assert [VLLM_0.stem, SGLANG.stem, FRONTEND.stem, VLLM_32.stem] == [record.samples[0].instance for record in decoded]
    for record in decoded:
        for histogram in (record.samples[0].ttft, record.samples[0].tbt):
            assert histogram is not None
            assert len(record.layouts[histogram.layout]) + 1 == len(histogram.counts)


def test_consecutive_pages_give_rates() -> None:
    """Two scrapes of one process: counters rise, the start does not change."""
    first, last = (sample(PAGES / f"vllmcpu0320_scrape{number}.txt") for number in (1, 3))
    assert first["started_at_ms"] == last["started_at_ms"]
    assert 5479 - 1691 == last["generation_tokens"] - first["generation_tokens"]


@pytest.mark.parametrize("content", [b"", b"up 1\n", b"\x00\xff\xfe", b"<html></html>", b"python_info 1\n"])
def test_a_page_without_engine_metrics_is_refused(tmp_path: Path, content: bytes) -> None:
    """Exit code 2, the file on stderr, and the other pages are still printed."""
    bad = tmp_path / "bad.prom"
    bad.write_bytes(content)
    result = call(bad, VLLM_0, "--json")
    assert 2 == result.exit_code
    assert f"{bad}: unknown_page" in result.stderr
    assert [VLLM_0.stem] == [record["samples"][0]["instance"] for record in records(result)]


def test_an_unreadable_page_is_refused(tmp_path: Path) -> None:
    """Missing, or a folder: exit code 2 and the reason."""
    for path in (tmp_path / "missing.prom", tmp_path):
        result = call(path, "--json")
        assert (2, "") == (result.exit_code, result.stdout)
        assert f"{path}: unreadable" in result.stderr


def test_the_wrong_engine_is_refused() -> None:
    """A named engine is not second-guessed."""
    result = call(VLLM_0, "--engine", "sglang", "--json")
    assert 2 == result.exit_code
    assert "the engine sglang" in result.stderr


def test_a_gpu_page_without_gpus_is_refused() -> None:
    """An engine page given as --with-gpu is a mistake."""
    result = call(VLLM_0, "--with-gpu", VLLM_32, "--json")
    assert (2, "") == (result.exit_code, result.stdout)
    assert "DCGM_FI_DEV_GPU_UTIL" in result.stderr


def test_people_get_a_table() -> None:
    """Without --json."""
    result = call(VLLM_0, SGLANG)
    assert 0 == result.exit_code
    assert ["vllm_0.6_kubeai", "vllm-v0", "decode", "2546"] == result.stdout.splitlines()[1].split()[:4]
