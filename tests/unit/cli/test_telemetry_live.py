"""`heteroscale telemetry check` and `tail`, and `export --once`: what a person sees when connecting an engine."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples, Tick
from heteroscale.contracts.topics import Topic
from support import builders
from support.command_line import PREFIX, CommandLine
from support.fake_engines import vllm_page

PAGES = Path(__file__).parents[2] / "data" / "metrics_pages"


class _Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """A vLLM page at /metrics."""
        body = vllm_page(500) if self.path == "/metrics" else b"nothing"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silence."""


@pytest.fixture
def engine() -> Iterator[str]:
    """The address of an engine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_check_says_what_is_there_and_how_to_get_the_rest(engine: str) -> None:
    """A running engine: enough, with the cure beside each figure that is missing."""
    (found,) = CommandLine().json("telemetry", "check", f"{engine}/metrics")
    assert (True, "vllm") == (found["enough"], found["engine"])
    figures = {one["figure"]: one for one in found["figures"]}
    assert figures["generation_tokens"]["present"]
    assert "--no-enable-prefix-caching" in figures["cached_prompt_tokens"]["cure"]
    assert "DCGM_FI_PROF_SM_ACTIVE" in figures["sm_active"]["cure"]


def test_check_of_a_page_that_is_not_enough_is_exit_code_1(tmp_path: Path) -> None:
    """Without a token counter the default signal cannot be made."""
    page = tmp_path / "page.prom"
    page.write_text("sglang:num_running_reqs 3\n")
    result = CommandLine()("telemetry", "check", str(page))
    assert 1 == result.exit_code
    assert "NOT enough" in result.stdout
    assert "--enable-metrics" in result.stdout
    assert "with the first request" in result.stdout, "an idle engine with the flag on shows no counter either"


def test_check_of_an_unknown_page_says_what_each_engine_needs(engine: str) -> None:
    """Exit code 2, the page's place and the flags."""
    result = CommandLine()("telemetry", "check", f"{engine}/other", "http://127.0.0.1:9/metrics")
    assert 2 == result.exit_code
    assert f"{engine}/other: unknown_page" in result.stderr
    assert "--enable-metrics" in result.stderr
    assert "http://127.0.0.1:9/metrics: unreachable" in result.stderr


@pytest.mark.parametrize("page", ["vllmcpu0320_scrape1.txt", "sglang_docs_llama31_8b_overloaded.prom", "vllm_0.6_kubeai.prom"])
def test_real_pages_are_enough(page: str) -> None:
    """Pages recorded from engines carry the default signal."""
    (found,) = CommandLine().json("telemetry", "check", str(PAGES / page))
    assert found["enough"]


def test_export_once_prints_the_record_and_names_what_failed(engine: str) -> None:
    """One telemetry.v1 record a page on stdout; a page that could not be had makes the exit code 1."""
    (found,) = CommandLine().json("export", "--once", "--url", f"{engine}/metrics", "--service", "chat", "--role", "prefill", "--gpus", "8")
    assert ("samples", "chat", "prefill", 500, 8) == (
        found["kind"],
        found["service"],
        found["samples"][0]["role"],
        found["samples"][0]["generation_tokens"],
        found["samples"][0]["gpus"],
    )
    result = CommandLine()("export", "--once", "--url", "http://127.0.0.1:9/metrics")
    assert 1 == result.exit_code
    assert "unreachable" in result.stderr


def test_export_without_targets_is_refused() -> None:
    """Exit code 2, with what to give."""
    result = CommandLine()("export", "--once")
    assert 2 == result.exit_code
    assert "--url" in result.stderr


def test_tail_prints_samples_with_rates() -> None:
    """Ticks and other services are passed over; a rate needs two samples of one life."""
    line = CommandLine()
    for second in range(3):
        one = InstanceSample(
            instance="d-0", role="decode", state=EngineState.SERVING, at_ms=1_000 * second, generation_tokens=400 * second, running=3
        )
        line.put([builders.entry(PREFIX, Topic.TELEMETRY, "chat", Samples(service="chat", samples=[one]), 1_000 * second)])
    line.put([builders.entry(PREFIX, Topic.TELEMETRY, "chat", Tick(at_ms=5_000))])
    line.put([builders.entry(PREFIX, Topic.TELEMETRY, "other", builders.samples("other"))])
    shown = line("telemetry", "tail", "--service", "chat").stdout.splitlines()
    assert 3 == len(shown)
    assert ["decode/s -", "decode/s 400", "decode/s 400"] == [text[text.index("decode/s") :].split(" prefill")[0] for text in shown]
    assert [400, 800] == [one["sample"]["generation_tokens"] for one in line.json("telemetry", "tail", "--service", "chat", "-n", "2")]
    assert [] == line.json("telemetry", "tail", "--instance", "nobody")
