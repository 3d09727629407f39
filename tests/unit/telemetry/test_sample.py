"""Engine pages to samples: every trap of engine metrics, by name."""

from __future__ import annotations

import math

import pytest

from heteroscale.contracts.telemetry import InstanceSample
from heteroscale.telemetry import engines, page
from heteroscale.telemetry.sample import Identity, Read, read

IDENTITY = Identity(instance="i1", role="decode", at_ms=1_000)


def whole(text: str, kind: str | None = None) -> Read:
    """What a page of text gives; the page must be recognised."""
    parsed = page.parse(text.encode())
    engine = engines.recognise(parsed, kind)
    assert engine is not None
    return read(parsed, engine, IDENTITY)


def sample(text: str, kind: str | None = None) -> InstanceSample:
    """The sample alone."""
    return whole(text, kind).sample


HISTOGRAM = """
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.01"} 3
vllm:inter_token_latency_seconds_bucket{engine="0",le="0.1"} 10
vllm:inter_token_latency_seconds_bucket{engine="0",le="+Inf"} 12
vllm:inter_token_latency_seconds_count{engine="0"} 12
vllm:inter_token_latency_seconds_sum{engine="0"} 1.5
"""


def test_engines_of_one_process_are_summed() -> None:
    """With data parallelism a page has one series an engine."""
    found = sample('vllm:generation_tokens_total{engine="0"} 5\nvllm:generation_tokens_total{engine="1"} 7\n')
    assert 12 == found.generation_tokens


def test_data_parallel_ranks_are_summed_and_tensor_parallel_ranks_are_not() -> None:
    """Tensor- and pipeline-parallel ranks repeat the number of their data-parallel rank."""
    lines = [
        f'sglang:num_running_reqs{{dp_rank="{dp}",tp_rank="{tp}",pp_rank="{pp}",moe_ep_rank="{tp}"}} {10 + dp}'
        for dp in range(2)
        for tp in range(4)
        for pp in range(2)
    ]
    assert 21 == sample("\n".join(lines)).running


def test_streaming_and_whole_answers_are_summed() -> None:
    """SGLang splits its counters by is_streaming."""
    found = sample(
        'sglang:generation_tokens_total{is_streaming="true"} 5\nsglang:generation_tokens_total{is_streaming="false"} 6\n'
        'sglang:cached_tokens_total{cache_source="device"} 3\nsglang:cached_tokens_total{cache_source="host"} 4\n'
    )
    assert (11, 7) == (found.generation_tokens, found.cached_prompt_tokens)


def test_ratios_are_averaged_never_summed() -> None:
    """Two engines at 60 % are at 60 %, not at 120 %."""
    found = sample('vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:kv_cache_usage_perc{engine="1"} 0.75\n')
    assert 0.625 == found.kv_usage


def test_perc_is_a_fraction_despite_its_name() -> None:
    """0.9 is 90 %; it is not divided by 100."""
    assert 0.9 == sample("vllm:gpu_cache_usage_perc 0.9\n").kv_usage


def test_a_ratio_above_one_is_absent() -> None:
    """A fraction above 1 is no fraction."""
    assert sample("vllm:gpu_cache_usage_perc 90\n").kv_usage is None


def test_old_and_new_names_are_never_added() -> None:
    """Where both are on a page, the new one counts."""
    found = whole(
        HISTOGRAM
        + 'vllm:time_per_output_token_seconds_bucket{le="0.5"} 100\nvllm:time_per_output_token_seconds_bucket{le="+Inf"} 100\n'
        + 'vllm:kv_cache_usage_perc{engine="0"} 0.25\nvllm:gpu_cache_usage_perc{engine="0"} 0.75\n'
    )
    assert found.sample.tbt is not None
    assert ([3, 7, 2], 0.25) == (found.sample.tbt.counts, found.sample.kv_usage)


def test_the_old_name_is_read_where_there_is_no_new_one() -> None:
    """VLLM V0 has only time_per_output_token_seconds."""
    found = whole('vllm:time_per_output_token_seconds_bucket{le="0.5"} 4\nvllm:time_per_output_token_seconds_bucket{le="+Inf"} 4\n')
    assert found.sample.tbt is not None
    assert {"tbt": [0.5]} == found.layouts


def test_per_request_latency_is_not_per_token_latency() -> None:
    """request_time_per_output_token_seconds has one observation a request; it is not taken."""
    text = "vllm:generation_tokens_total 1\n" + HISTOGRAM.replace("inter_token_latency_seconds", "request_time_per_output_token_seconds")
    assert sample(text).tbt is None


@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1.0"])
def test_sentinels_and_non_numbers_are_absent(value: str) -> None:
    """MISSING-IS-NOT-ZERO: `not enabled` (-1), NaN and infinities become null."""
    found = sample(f"vllm:num_requests_running 4\nvllm:prefix_cache_hits_total {value}\nvllm:kv_cache_usage_perc {value}\n")
    assert (4, None, None) == (found.running, found.cached_prompt_tokens, found.kv_usage)


def test_a_sum_with_a_missing_part_is_absent() -> None:
    """A partial sum of a counter would look like a reset."""
    assert sample('vllm:generation_tokens_total{engine="0"} 5\nvllm:generation_tokens_total{engine="1"} NaN\n').generation_tokens is None


def test_zero_is_data() -> None:
    """An idle engine says 0, and 0 is what is passed on."""
    assert 0 == sample("vllm:generation_tokens_total 0\n").generation_tokens


def test_absent_is_not_zero() -> None:
    """What a page lacks is null."""
    found = sample("vllm:num_requests_running 0\n")
    assert (None, None, None, None) == (found.generation_tokens, found.prompt_tokens, found.kv_usage, found.ttft)


@pytest.mark.parametrize("name", ["vllm:generation_tokens_total", "vllm_generation_tokens_total", "ray_vllm:generation_tokens_total"])
def test_prefixes_and_separators_vary(name: str) -> None:
    """Ray puts its own prefix in front, pipelines rewrite the colon."""
    assert 7 == sample(f"{name} 7\n").generation_tokens


def test_one_metric_under_two_spellings_is_not_counted_twice() -> None:
    """A page that was rewritten and also kept has both."""
    assert (
        7
        == sample("vllm:generation_tokens_total 7\nvllm_generation_tokens_total 7\nray_vllm:generation_tokens_total 7\n").generation_tokens
    )


def test_created_series_are_not_data() -> None:
    """`*_created` is the time at which a counter was made."""
    assert 3 == sample("vllm:generation_tokens_total 3\nvllm:generation_tokens_created 1.79e+09\n").generation_tokens


def test_by_source_variants_are_not_added_to_the_total() -> None:
    """They split the same tokens again."""
    found = sample(
        'vllm:prompt_tokens_total 10\nvllm:prompt_tokens_by_source_total{source="local_compute"} 6\n'
        'vllm:prompt_tokens_by_source_total{source="local_cache_hit"} 4\nvllm:prompt_tokens_cached_total 4\n'
        'vllm:prompt_tokens_cached_by_source_total{source="device"} 4\nvllm:prefix_cache_hits_total 5\n'
    )
    assert (10, 4) == (found.prompt_tokens, found.cached_prompt_tokens)


def test_cached_tokens_fall_back_to_prefix_hits() -> None:
    """Before 0.32 the prefix cache's hits, in tokens, are what there is."""
    assert 5 == sample("vllm:prompt_tokens_total 10\nvllm:prefix_cache_hits_total 5\n").cached_prompt_tokens


def test_iteration_tokens_total_is_a_histogram_and_no_counter() -> None:
    """Its name ends like a counter's; it must not be taken for one."""
    found = sample("vllm:iteration_tokens_total_sum 99\nvllm:iteration_tokens_total_count 9\nvllm:num_requests_running 1\n")
    assert found.generation_tokens is None


def test_waiting_by_reason_stands_in_only_when_there_is_no_total() -> None:
    """Both are on newer pages, and are the same requests."""
    reasons = 'vllm:num_requests_waiting_by_reason{reason="capacity"} 2\nvllm:num_requests_waiting_by_reason{reason="deferred"} 1\n'
    assert 3 == sample(reasons).waiting
    assert 3 == sample(reasons + "vllm:num_requests_waiting 3\n").waiting


def test_decode_tokens_fall_back_to_first_plus_later_tokens() -> None:
    """A worker page without a token counter: TTFT observes each first token, ITL each later one."""
    text = HISTOGRAM + 'vllm:time_to_first_token_seconds_bucket{le="+Inf"} 5\nvllm:time_to_first_token_seconds_count 5\n'
    assert 17 == sample(text).generation_tokens


def test_the_token_counter_wins_over_the_latency_counts() -> None:
    """A counter that is there is the truth, even at 0."""
    assert 0 == sample(HISTOGRAM + "vllm:time_to_first_token_seconds_count 5\nvllm:generation_tokens_total 0\n").generation_tokens


def test_per_request_engines_have_no_such_fallback() -> None:
    """TensorRT-LLM observes its output latency once a request, so the counts are no tokens."""
    found = sample("trtllm_time_to_first_token_seconds_count 5\ntrtllm_time_per_output_token_seconds_count 5\n")
    assert found.generation_tokens is None


def test_self_reported_rates_are_never_used() -> None:
    """`gen_throughput` may be minutes old; only counters count."""
    found = sample("sglang:gen_throughput 86.5\nsglang:num_running_reqs 1\n")
    assert found.generation_tokens is None


def test_buckets_are_made_disjoint() -> None:
    """Cumulative on the page, each observation in exactly one bucket in the sample; the last is +Inf."""
    found = whole(HISTOGRAM)
    assert found.sample.tbt is not None
    assert ([0.01, 0.1], [3, 7, 2], 1.5) == (found.layouts["tbt"], found.sample.tbt.counts, found.sample.tbt.sum_s)


def test_histograms_of_engines_are_summed_by_bucket() -> None:
    """Bucket by bucket, whatever the order of the lines and the spelling of the edges."""
    other = "\n".join(reversed(HISTOGRAM.replace('engine="0"', 'engine="1"').replace('le="0.1"', 'le="1e-1"').splitlines()))
    found = sample(HISTOGRAM + other + "\n")
    assert found.tbt is not None
    assert ([6, 14, 4], 3.0) == (found.tbt.counts, found.tbt.sum_s)


def test_repeated_ranks_do_not_double_a_histogram() -> None:
    """As for counters."""
    text = "".join(HISTOGRAM.replace("vllm", "sglang").replace('engine="0"', f'tp_rank="{rank}"') for rank in range(4))
    found = sample(text)
    assert found.tbt is not None
    assert [3, 7, 2] == found.tbt.counts


def test_a_missing_inf_bucket_is_made_up_from_the_count() -> None:
    """Some pipelines drop it."""
    found = sample("\n".join(line for line in HISTOGRAM.splitlines() if "+Inf" not in line) + "\n")
    assert found.tbt is not None
    assert [3, 7, 2] == found.tbt.counts


@pytest.mark.parametrize(
    ("old", "new"),
    [('le="0.1"} 10', 'le="0.1"} 2'), ('le="0.1"} 10', 'le="0.1"} NaN'), ('le="0.1"}', 'le="wide"}'), ('le="0.1"}', 'le="NaN"}')],
)
def test_a_histogram_that_does_not_hold_together_is_absent(old: str, new: str) -> None:
    """Falling counts, NaN, or edges that are no numbers: null, and the rest of the sample stands."""
    found = sample(HISTOGRAM.replace(old, new) + "vllm:num_requests_running 1\n")
    assert (None, 1) == (found.tbt, found.running)


def test_histograms_of_different_edges_are_not_added() -> None:
    """There is no exact sum; null rather than wrong."""
    text = HISTOGRAM + HISTOGRAM.replace('engine="0"', 'engine="1"').replace('le="0.1"', 'le="0.2"')
    assert sample(text).tbt is None


def test_start_time_is_milliseconds() -> None:
    """process_start_time_seconds, in scientific notation as the client writes it."""
    assert 1_795_433_623_780 == sample("vllm:num_requests_running 1\nprocess_start_time_seconds 1.79543362378e+09\n").started_at_ms


def test_start_time_is_null_without_one() -> None:
    """A wrong start would restart every counter."""
    assert sample("vllm:num_requests_running 1\n").started_at_ms is None


def test_a_frontend_speaks_for_a_pool() -> None:
    """It is kept out of the prefill and decode roles, whatever role was asked for."""
    found = sample('dynamo_frontend_output_tokens_total{model="m"} 9\ndynamo_frontend_inflight_requests{model="m"} 2\n')
    assert ("frontend", 9, 2) == (found.role, found.generation_tokens, found.running)


def test_a_frontend_prefers_its_counter_to_its_histogram() -> None:
    """Its latency and length histograms run short: they count finished requests only."""
    found = sample("dynamo_frontend_output_tokens_total 9\ndynamo_frontend_output_sequence_tokens_sum 7\n")
    assert 9 == found.generation_tokens
    assert 7 == sample("dynamo_frontend_output_sequence_tokens_sum 7\n").generation_tokens


def test_a_dynamo_worker_without_engine_series_has_no_counters() -> None:
    """The mocker's prefill worker exposes none: absent, not zero."""
    found = sample("dynamo_component_inflight_requests 2\ndynamo_component_kvstats_gpu_cache_usage_percent 0.4\n")
    assert ("decode", None, 2, 0.4) == (found.role, found.generation_tokens, found.running, found.kv_usage)


def test_an_engine_behind_dynamo_is_read_as_the_engine() -> None:
    """A worker passes its engine's series through beside its own."""
    found = sample("dynamo_component_inflight_requests 2\nvllm:num_requests_running 3\nvllm:generation_tokens_total 4\n")
    assert (3, 4) == (found.running, found.generation_tokens)


def test_triton_tells_its_queues_apart_by_label() -> None:
    """One metric, several meanings."""
    found = sample(
        'nv_trt_llm_request_metrics{model="m",request_type="scheduled",version="1"} 6\n'
        'nv_trt_llm_request_metrics{model="m",request_type="waiting",version="1"} 2\n'
        'nv_trt_llm_request_metrics{model="m",request_type="max",version="1"} 512\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="fraction",model="m"} 0.5\n'
        'nv_trt_llm_kv_cache_block_metrics{kv_cache_block_type="tokens_per",model="m"} 64\n'
    )
    assert (6, 2, 0.5) == (found.running, found.waiting, found.kv_usage)


def test_text_generation_inference() -> None:
    """TGI has sums of per-request histograms, no TTFT, and no fraction of its cache."""
    found = sample(
        "tgi_request_generated_tokens_sum 40\ntgi_request_input_length_sum 90\ntgi_request_count 3\ntgi_batch_current_size 2\n"
        "tgi_queue_size 1\ntgi_batch_current_max_tokens 4096\n"
    )
    assert (40, 90, 3, 2, 1) == (found.generation_tokens, found.prompt_tokens, found.requests_finished, found.running, found.waiting)
    assert (None, None) == (found.kv_usage, found.ttft)


def test_llama_cpp() -> None:
    """Names of its own."""
    found = sample(
        "llamacpp:tokens_predicted_total 8\nllamacpp:prompt_tokens_total 20\nllamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"
    )
    assert (8, 20, 1, 0) == (found.generation_tokens, found.prompt_tokens, found.running, found.waiting)


def test_tensorrt_llm() -> None:
    """Its own server's page."""
    found = sample(
        "trtllm_generation_tokens_total 8\ntrtllm_prompt_tokens_total 20\ntrtllm_num_requests_running 1\ntrtllm_num_requests_waiting 4\n"
        'trtllm_kv_cache_utilization 0.25\ntrtllm_request_success_total{finished_reason="stop"} 2\n'
    )
    assert (8, 20, 1, 4) == (found.generation_tokens, found.prompt_tokens, found.running, found.waiting)
    assert (0.25, 2) == (found.kv_usage, found.requests_finished)


@pytest.mark.parametrize(
    ("text", "family"),
    [
        ("vllm:prompt_tokens_cached_total 1", "vllm-0.32"),
        ("vllm:kv_cache_usage_perc 0.1", "vllm-v1"),
        ("vllm:gpu_cache_usage_perc 0.1", "vllm-v0"),
        ("sglang:token_usage 0.1", "sglang"),
        ("trtllm_kv_cache_utilization 0.1", "trtllm"),
        ('nv_trt_llm_request_metrics{request_type="max"} 1', "triton"),
        ("dynamo_frontend_queued_requests 1", "dynamo-frontend"),
        ("dynamo_component_requests_total 1", "dynamo-worker"),
        ("tgi_queue_size 1", "tgi"),
        ("llamacpp:requests_deferred 1", "llamacpp"),
    ],
)
def test_engines_are_recognised_by_their_names(text: str, family: str) -> None:
    """One metric that a family has is enough."""
    engine = engines.recognise(page.parse(text.encode()))
    assert engine is not None
    assert family == engine.family


@pytest.mark.parametrize("text", ["", "python_info 1", "vllm:cache_config_info 1", "myvllm:generation_tokens_total 1", "up 1"])
def test_other_pages_are_not_recognised(text: str) -> None:
    """A page without a metric that is read gives no sample at all."""
    assert engines.recognise(page.parse(text.encode())) is None


def test_a_named_engine_is_not_sought_elsewhere() -> None:
    """`--engine sglang` on a vLLM page is a mistake, not a hint."""
    assert engines.recognise(page.parse(b"vllm:num_requests_running 1"), "sglang") is None


def test_counts_are_integers_and_finite() -> None:
    """8.128902e+06 is 8128902; nothing that leaves here is NaN."""
    found = sample("sglang:prompt_tokens_total 8.128902e+06\nsglang:num_running_reqs 0.5\n")
    assert isinstance(found.prompt_tokens, int)
    assert 8_128_902 == found.prompt_tokens
    assert found.running is not None
    assert math.isclose(0.5, found.running)
