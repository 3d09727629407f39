"""Each baseline gives what its own documentation says, on the examples that stand there."""

from __future__ import annotations

from fractions import Fraction

import msgspec
import pytest

from heteroscale.contracts.signals import InstanceCounts, RoleSignal
from heteroscale.simulator.baselines import apa, hpa, kpa, kthena, llmd
from heteroscale.simulator.baselines.apa import DECODE_OF_POOL, PREFILL_OF_POOL, ApaRule, ApaTuning
from heteroscale.simulator.baselines.hpa import HpaRule, HpaTuning
from heteroscale.simulator.baselines.kpa import KpaRule, KpaTuning
from heteroscale.simulator.baselines.kthena import Band
from heteroscale.simulator.baselines.llmd import SaturationRule, SaturationTuning

MINUTE_MS = 60_000


def role(serving: int, **figures: float) -> RoleSignal:
    """A role's signal."""
    quiet = RoleSignal(instances=InstanceCounts(serving=serving))
    return msgspec.structs.replace(quiet, **figures)


class TestHpa:
    """Kubernetes documentation, "Algorithm details": desired = ceil(current * current value / desired value)."""

    @pytest.mark.parametrize(("value", "expected"), [(0.2, 8), (0.05, 2), (0.1, 4), (0.109, 4), (0.091, 4)])
    def test_the_documented_ratios(self, value: float, expected: int) -> None:
        """Twice the target doubles, half of it halves, and within 10 % nothing moves."""
        assert expected == hpa.desired(4, 4, value, HpaTuning(utilization=0.1))

    def test_pods_that_are_not_ready_dampen_a_scale_out(self) -> None:
        """They count as idle: 4 ready at 150 % with 2 pending are 100 % over 6, so nothing moves."""
        assert 6 == hpa.desired(6, 4, 0.6, HpaTuning(utilization=0.4))

    def test_down_takes_the_highest_recommendation_of_five_minutes(self) -> None:
        """A dip of four minutes changes nothing; after five minutes the count falls."""
        rule = HpaRule(HpaTuning(utilization=0.5))
        held = [rule.recommend(at * MINUTE_MS, 10, role(10, gpu_util=0.5 if at == 0 else 0.25)) for at in range(6)]
        assert [10, 10, 10, 10, 10, 5] == held

    def test_up_is_limited_to_the_larger_of_double_and_four_pods(self) -> None:
        """The default behaviour policies."""
        assert 6 == HpaRule(HpaTuning(utilization=0.1)).recommend(0, 2, role(2, gpu_util=1.0))
        assert 20 == HpaRule(HpaTuning(utilization=0.1)).recommend(0, 10, role(10, gpu_util=1.0))

    def test_several_periods_of_15_s_fit_between_two_windows(self) -> None:
        """A minute later four of them have passed: 2, 6, 12, 24, 48."""
        rule = HpaRule(HpaTuning(utilization=0.01))
        rule.recommend(0, 2, role(2, gpu_util=0.01))
        assert 48 == rule.recommend(MINUTE_MS, 2, role(2, gpu_util=1.0))

    @pytest.mark.parametrize(("target", "expected"), [(0.95, 4), (0.92, 4), (0.9, 5)])
    def test_full_load_is_within_the_tolerance_of_a_high_target(self, target: float, expected: int) -> None:
        """100 % over 95 % is 1.05, within the tolerance of 0.1: such an autoscaler never scales out."""
        assert expected == hpa.desired(4, 4, 1.0, HpaTuning(utilization=target))


class TestKpa:
    """Knative documentation: concurrency, target and utilisation; stable and panic windows. The count is Alibaba Cloud's example of it."""

    def test_the_documented_count(self) -> None:
        """100 concurrent requests on a limit of 10 at 70 % are 15 pods."""
        assert 15 == kpa.pods(100.0, KpaTuning(target=10.0, utilization=0.7))

    def test_panic_scales_out_at_once_and_not_in(self) -> None:
        """Twice what is ready starts panic; while it lasts, a lower load does not scale in; a stable window later it does."""
        rule = KpaRule(KpaTuning(target=10.0, utilization=1.0))
        assert 2 == rule.recommend(0, 2, role(2, running=20.0, waiting=0.0))
        assert 8 == rule.recommend(MINUTE_MS, 2, role(2, running=20.0, waiting=60.0))
        assert 8 == rule.recommend(2 * MINUTE_MS, 8, role(8, running=10.0, waiting=0.0))
        assert 4 == rule.recommend(3 * MINUTE_MS, 8, role(8, running=10.0, waiting=0.0))

    def test_scale_in_halves_at_most(self) -> None:
        """max-scale-down-rate is 2."""
        assert 5 == KpaRule(KpaTuning(target=10.0)).recommend(0, 10, role(10, running=0.0, waiting=0.0))


class TestLlmD:
    """Workload variant autoscaler, "How scale-up triggers work"."""

    def test_the_documented_scenario(self) -> None:
        """KV 65 % and 72 % leave 0.115 on average: no scale-up. At 76 % it is 0.095: scale-up."""
        assert not llmd.wants_more([0.65, 0.72], [0.0, 0.0], SaturationTuning())
        assert llmd.wants_more([0.65, 0.76], [0.0, 0.0], SaturationTuning())

    def test_a_saturated_replica_is_left_out_of_the_mean(self) -> None:
        """At 0.80 or a queue of 5 a replica is saturated; all saturated asks for more."""
        assert not llmd.wants_more([0.8, 0.6], [0.0, 0.0], SaturationTuning())
        assert llmd.wants_more([0.8, 0.9], [0.0, 0.0], SaturationTuning())
        assert llmd.wants_more([0.1, 0.1], [3.0, 2.5], SaturationTuning())

    def test_scale_in_is_simulated(self) -> None:
        """Three at 40 % fit on two (spare 0.2); three at 50 % do not (0.75 leaves 0.05). One replica is never removed."""
        assert llmd.may_lose_one([0.4] * 3, [0.0] * 3, SaturationTuning())
        assert not llmd.may_lose_one([0.5] * 3, [0.0] * 3, SaturationTuning())
        assert not llmd.may_lose_one([0.1], [0.0], SaturationTuning())

    def test_pending_replicas_stop_the_cascade(self) -> None:
        """One replica at a time, and none while one is on its way."""
        rule = SaturationRule()
        assert 5 == rule.recommend(0, 4, role(4, kv_usage=0.79, waiting=0.0))
        assert 5 == rule.recommend(MINUTE_MS, 5, role(4, kv_usage=0.79, waiting=0.0))


@pytest.mark.parametrize(
    ("current", "value", "rates", "expected"),
    [
        (2, 45.0, (2.0, 2.0), 3),
        (2, 35.0, (2.0, 2.0), 3),
        (2, 90.0, (2.0, 2.0), 4),
        (2, 90.0, (2.5, 2.0), 5),
        (6, 20.0, (2.0, 2.0), 4),
        (6, 18.0, (2.0, 2.0), 4),
        (6, 10.0, (2.0, 2.0), 3),
        (6, 5.0, (2.0, 2.5), 2),
        (2, 33.0, (2.0, 2.0), 2),
        (2, 27.0, (2.0, 2.0), 2),
    ],
)
def test_apa_examples(current: int, value: float, rates: tuple[float, float], expected: int) -> None:
    """The cases of AIBrix's own tests, target 30: proportional, limited by its rates, still within 10 %."""
    assert expected == apa.replicas(current, value, ApaTuning(target=30.0, max_up=rates[0], max_down=rates[1]))


class TestApaPool:
    """The sample for roles that scale apart, stormservice-pool: prefill by its queue, target 10; decode by its batch, target 70 %."""

    def test_prefill_follows_its_queue_per_instance(self) -> None:
        """40 waiting at 2 instances are twice the target; without a queue it goes down by half, after its cool-down."""
        assert 4 == ApaRule(PREFILL_OF_POOL).recommend(0, 2, role(2, waiting=40.0, kv_usage=0.9))
        rule = ApaRule(PREFILL_OF_POOL)
        counts = [rule.recommend(at * MINUTE_MS, 4, role(4, waiting=40.0 if at == 0 else 0.0)) for at in range(6)]
        assert [4, 4, 4, 4, 4, 2] == counts

    def test_decode_follows_its_cache_and_waits_ten_minutes(self) -> None:
        """Twice the target doubles at once; half of it takes 600 s and the window."""
        assert 8 == ApaRule(DECODE_OF_POOL).recommend(0, 4, role(4, kv_usage=1.4, waiting=0.0))
        rule = ApaRule(DECODE_OF_POOL)
        counts = [rule.recommend(at * MINUTE_MS, 4, role(4, kv_usage=0.7 if at == 0 else 0.35)) for at in range(15)]
        assert [4] * 10 == counts[:10]
        assert 2 == counts[14]

    def test_metrics_are_means_over_three_minutes(self) -> None:
        """One minute of four times the target among three is twice the target."""
        rule = ApaRule(DECODE_OF_POOL)
        counts = [rule.recommend(at * MINUTE_MS, 4, role(4, kv_usage=value)) for at, value in enumerate((0.7, 0.7, 2.8))]
        assert [4, 4, 8] == counts


QUARTER_TO_ONE = Band(low=Fraction(1, 4), high=Fraction(1))


@pytest.mark.parametrize(
    ("pair", "bounds", "band", "expected"),
    [
        ((2, 4), ((0, 8), (0, 16)), QUARTER_TO_ONE, (2, 4)),
        ((1, 8), ((0, 8), (0, 16)), QUARTER_TO_ONE, (2, 8)),
        ((1, 3), ((1, 10), (1, 10)), Band(low=Fraction(1, 2), high=Fraction(1, 2)), (2, 4)),
        ((7, 99), ((7, 7), (1, 100)), Band(low=Fraction(7, 100), high=Fraction(7, 100)), (7, 100)),
        ((6, 2), ((0, 8), (0, 16)), QUARTER_TO_ONE, (6, 6)),
        ((2, 20), ((0, 3), (0, 20)), QUARTER_TO_ONE, (3, 12)),
        ((0, 4), ((0, 8), (0, 16)), QUARTER_TO_ONE, (1, 4)),
        ((4, 0), ((0, 8), (0, 16)), QUARTER_TO_ONE, (4, 4)),
        ((0, 0), ((0, 8), (0, 16)), QUARTER_TO_ONE, (0, 0)),
        ((1, 2), ((1, 2), (2, 3)), Band(low=Fraction(11, 20), high=Fraction(11, 20)), None),
    ],
)
def test_kthena_examples(
    pair: tuple[int, int], bounds: tuple[tuple[int, int], tuple[int, int]], band: Band, expected: tuple[int, int] | None
) -> None:
    """The cases of Kthena's own tests: the pair moves into the band, raised rather than lowered; none where there is no such pair."""
    assert expected == kthena.in_band(pair, bounds, band)
