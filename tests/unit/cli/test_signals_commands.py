"""`heteroscale signals`: compute, tail and plot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from heteroscale.bus.log import Entry
from heteroscale.contracts import codec
from heteroscale.contracts.topics import Topic, topic_name
from support.command_line import PREFIX, CommandLine
from support.telemetry_lines import Document, Run, in_time_order, ms, steady, ticks

DOCUMENTS = in_time_order(steady("i", 0, 120, 50), ticks(0, 120))
SPEC = """
service: chat
roles:
  prefill: {min: 1, max: 4, gpus: 8, gpu_types: [{type: H20}]}
  decode: {min: 1, max: 4, gpus: 8, gpu_types: [{type: H20}]}
ratio: {prefill: 1, decode: 1}
window: {size: 30s, hop: 10s}
signals:
  - {metric: decode_tps, role: decode, target: 100}
behavior: {scale_in: {stabilization: 60s}}
"""


@pytest.fixture
def command() -> CommandLine:
    """The command line on a log in memory."""
    return CommandLine()


def _file(folder: Path, documents: list[Document], *more: str) -> Path:
    path = folder / "telemetry.jsonl"
    path.write_text("\n".join([*(json.dumps(document) for document in documents), *more, ""]))
    return path


def test_compute_prints_what_the_core_says(command: CommandLine, tmp_path: Path) -> None:
    """One SignalWindow a line, canonical bytes, and nothing else on stdout."""
    result = command("signals", "compute", str(_file(tmp_path, DOCUMENTS)), "--json")
    assert 0 == result.exit_code
    assert [codec.encode(window).decode() for window in Run().feed(*DOCUMENTS).windows] == result.stdout.splitlines()
    assert "" == result.stderr


def test_compute_takes_the_window_from_the_spec(command: CommandLine, tmp_path: Path) -> None:
    """Size 30 s, hop 10 s; both roles of the spec are there."""
    (tmp_path / "spec.yaml").write_text(SPEC)
    windows = command.json("signals", "compute", str(_file(tmp_path, DOCUMENTS)), "--spec", str(tmp_path / "spec.yaml"))
    assert [30_000] * 9 == [window["end_ms"] - window["start_ms"] for window in windows]
    assert ["decode", "prefill"] == list(windows[0]["roles"])


def test_compute_names_bad_lines_and_strict_makes_them_an_error(command: CommandLine, tmp_path: Path) -> None:
    """FILE:LINE and a code on stderr; the other lines are used all the same."""
    bad_sample = json.dumps({"kind": "samples", "service": "chat", "samples": [{"instance": "x"}]})
    path = _file(tmp_path, DOCUMENTS, "garbage", "", bad_sample)
    for arguments, code in (([], 0), (["--strict"], 2)):
        result = command("signals", "compute", str(path), "--json", *arguments)
        assert code == result.exit_code
        assert 4 == len(result.stdout.splitlines())
        last = len(DOCUMENTS)
        places = [line.split(": ")[:2] for line in result.stderr.splitlines()]
        assert [[f"{path}:{last + 1}", "undecodable"], [f"{path}:{last + 3}", "invalid_sample"]] == places


def test_compute_of_a_missing_file_is_bad_input(command: CommandLine, tmp_path: Path) -> None:
    """Exit 2 and the file's name."""
    result = command("signals", "compute", str(tmp_path / "none.jsonl"))
    assert 2 == result.exit_code
    assert "none.jsonl" in result.stderr


def _publish(command: CommandLine) -> int:
    windows = Run().feed(*DOCUMENTS).windows
    topic = topic_name(PREFIX, Topic.SIGNALS)
    command.put(Entry(topic, window.service.encode(), codec.encode(window), window.end_ms) for window in windows)
    return len(windows)


def test_tail_prints_the_newest_windows(command: CommandLine) -> None:
    """As many as asked for; since an instant all from there."""
    count = _publish(command)
    assert [ms(90), ms(105)] == [window["end_ms"] for window in command.json("signals", "tail", "chat", "-n", "2")]
    assert count == len(command.json("signals", "tail", "chat"))
    assert "DECODE/S" in command("signals", "tail", "chat").stdout


def test_tail_says_so_when_there_is_nothing(command: CommandLine) -> None:
    """A service nobody measured, or a time without windows: a line on stderr, nothing on stdout; not when none were asked for."""
    _publish(command)
    for arguments, words in (
        (["caht"], "no window of caht;"),
        (["chat", "--since", "2100-01-01T00:00Z"], "no window of chat in that time;"),
    ):
        nothing = command("signals", "tail", *arguments, "--json")
        assert (0, "") == (nothing.exit_code, nothing.stdout)
        assert words in nothing.stderr
    assert "" == command("signals", "tail", "chat", "-n", "0").stderr


def test_plot_draws_in_the_terminal_and_as_a_picture(command: CommandLine, tmp_path: Path) -> None:
    """A point a window; a PNG is a PNG; without data the message says so."""
    count = _publish(command)
    assert count + 1 == command("signals", "plot", "chat").stdout.count("●")  # and one in the legend
    path = tmp_path / "chart.png"
    assert 0 == command("signals", "plot", "chat", "--png", str(path)).exit_code
    assert b"\x89PNG" == path.read_bytes()[:4]
    nothing = command("signals", "plot", "chat", "--metric", "kv_usage")
    assert 2 == nothing.exit_code
    assert "kv_usage" in nothing.stderr


def test_real_vllm_pages_give_the_rates_computed_by_hand(command: CommandLine, tmp_path: Path) -> None:
    """Two scrapes of a real vLLM, 20.056 s apart, both inside the window to …700 s.

    generation_tokens went from 1691 to 5479, prompt_tokens from 5655 to 19526, none of them cached: over 60 s that is
    3788 / 60 = 63.133333 decode tokens/s and 13871 / 60 = 231.183333 prefill tokens/s, all missed.
    """
    pages = Path(__file__).parents[2] / "data" / "metrics_pages"
    lines = ['{"kind":"tick","at_ms":1795433600000}']
    for number, at_ms in ((1, 1_795_433_671_033), (3, 1_795_433_691_089)):
        page = str(pages / f"vllmcpu0320_scrape{number}.txt")
        parsed = command("telemetry", "parse", page, "--service", "chat", "--instance", "v", "--at-ms", str(at_ms), "--json")
        lines.append(parsed.stdout.strip())
    path, spec = tmp_path / "telemetry.jsonl", tmp_path / "spec.yaml"
    path.write_text("\n".join([*lines, '{"kind":"tick","at_ms":1795433720000}']))
    spec.write_text(SPEC.replace("size: 30s, hop: 10s", "size: 60s, hop: 15s"))
    windows = command.json("signals", "compute", str(path), "--spec", str(spec))
    (decode,) = [window["roles"]["decode"] for window in windows if window["end_ms"] == 1_795_433_700_000]
    assert (63.133333, 231.183333, 231.183333) == (decode["decode_tps"], decode["prefill_tps"], decode["prefill_missed_tps"])
    assert 0 < decode["ttft_ms"]["count"]
