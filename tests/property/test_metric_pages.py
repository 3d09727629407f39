"""Engine pages, whatever they hold: nothing raises, order does not matter, counts add up."""

from __future__ import annotations

import math
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from heteroscale.contracts import codec
from heteroscale.contracts.telemetry import InstanceSample
from heteroscale.telemetry import dcgm, engines, page
from heteroscale.telemetry.sample import Identity, read

PAGES = Path(__file__).parents[1] / "data" / "metrics_pages"
REAL = [path.read_bytes() for path in sorted(PAGES.glob("*")) if path.suffix in {".prom", ".txt"} and path.stem != "SOURCE"]
SHORT = [lines for lines in (payload.splitlines() for payload in REAL) if len(lines) < 200]
IDENTITY = Identity(instance="i1", role="decode", at_ms=1_000)
NAMES = st.sampled_from(
    [
        "vllm:generation_tokens_total",
        "vllm:num_requests_running",
        "vllm:kv_cache_usage_perc",
        "vllm:inter_token_latency_seconds_bucket",
        "vllm:inter_token_latency_seconds_count",
        "ray_vllm:prompt_tokens_total",
        "process_start_time_seconds",
        dcgm.GPU_UTIL,
    ]
)
LABELS = st.dictionaries(st.sampled_from(["engine", "tp_rank", "dp_rank", "le", "model_name"]), st.text(max_size=4), max_size=3)
VALUES = st.one_of(st.floats(), st.integers(), st.sampled_from(["NaN", "-1.0", "9223372036854775794", "", "x"]))


def sample_of(payload: bytes) -> InstanceSample | None:
    """The sample of a page, or null for an unknown one."""
    parsed = page.parse(payload)
    engine = engines.recognise(parsed)
    return None if engine is None else read(parsed, engine, IDENTITY, dcgm.figures(parsed, "i1")).sample


def check(sample: InstanceSample) -> None:
    """What must hold of any sample: it survives the wire, and no figure is NaN, negative, or a fraction above 1."""
    assert sample == codec.decode(InstanceSample, codec.encode(sample))
    figures = [sample.generation_tokens, sample.prompt_tokens, sample.cached_prompt_tokens, sample.requests_finished]
    figures += [sample.running, sample.waiting, sample.kv_usage, sample.gpu_util, sample.sm_active]
    for histogram in (sample.ttft, sample.tbt):
        figures += [] if histogram is None else [*histogram.counts, histogram.sum_s]
    assert all(figure is None or (math.isfinite(figure) and figure >= 0) for figure in figures)
    assert all(figure is None or figure <= 1 for figure in (sample.kv_usage, sample.gpu_util, sample.sm_active))


@given(st.binary(max_size=2_000))
def test_any_bytes_can_be_read(payload: bytes) -> None:
    """A proxy's error page, a core dump: problems, never an exception."""
    parsed = page.parse(payload)
    assert len(parsed.problems) <= payload.count(b"\n") + 1


@given(st.lists(st.tuples(NAMES, LABELS, VALUES), max_size=30))
def test_any_values_give_a_sound_sample_or_none(lines: list[tuple[str, dict[str, str], object]]) -> None:
    """Odd labels, odd numbers, missing parts."""
    text = "\n".join(
        f"{name}{{{','.join(f'{key}={value!r}' for key, value in labels.items())}}} {number}" for name, labels, number in lines
    )
    for quoted in (text, text.replace("'", '"')):
        sample = sample_of(quoted.encode(errors="replace"))
        if sample is not None:
            check(sample)


@settings(max_examples=40)
@given(st.sampled_from(REAL), st.integers(min_value=0), st.binary(min_size=1, max_size=20))
def test_a_damaged_real_page_still_gives_a_sound_sample(payload: bytes, at: int, noise: bytes) -> None:
    """Bytes overwritten anywhere."""
    at %= len(payload)
    sample = sample_of(payload[:at] + noise + payload[at + len(noise) :])
    if sample is not None:
        check(sample)


@given(st.sampled_from(SHORT).flatmap(st.permutations))
def test_the_order_of_lines_does_not_matter(lines: list[bytes]) -> None:
    """Two exporters may sort their pages differently (repeated lines apart: there the last counts)."""
    keyed = {line.rpartition(b" ")[0]: line for line in lines}
    ordered = sorted(keyed.values())
    shuffled = [line for line in lines if keyed[line.rpartition(b" ")[0]] is line]
    assert sample_of(b"\n".join(ordered)) == sample_of(b"\n".join(shuffled))


@given(st.integers(min_value=1, max_value=6))
def test_more_tensor_parallel_ranks_change_nothing(ranks: int) -> None:
    """Each repeats the same numbers."""
    lines = [line for line in (PAGES / "sglang_docs_llama31_8b_overloaded.prom").read_bytes().splitlines() if line[:1] != b"#"]
    once = sample_of(b"\n".join(lines))
    repeated = [line.replace(b"{", b'{tp_rank="%d",' % rank, 1) for line in lines for rank in range(ranks)]
    assert once == sample_of(b"\n".join(repeated))
