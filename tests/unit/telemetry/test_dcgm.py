"""GPU figures: percent and ratio, blanks, slices, hosts."""

from __future__ import annotations

import pytest

from heteroscale.telemetry import dcgm, page
from heteroscale.telemetry.dcgm import GpuFigures


def figures(text: str, instance: str = "i1") -> GpuFigures | None:
    """Figures of a page of text."""
    return dcgm.figures(page.parse(text.encode()), instance)


def gpu(name: str, value: object, index: int = 0, **labels: str) -> str:
    """One line of the exporter."""
    text = ",".join(f'{key}="{text}"' for key, text in {"gpu": str(index), "UUID": f"GPU-{index}", **labels}.items())
    return f"{name}{{{text}}} {value}\n"


def test_utilisation_is_percent_and_activity_is_a_ratio() -> None:
    """DEV figures run to 100, PROF figures to 1."""
    assert GpuFigures(0.5, 0.25) == figures(gpu(dcgm.GPU_UTIL, 50) + gpu(dcgm.SM_ACTIVE, 0.25))


def test_sm_activity_is_off_by_default_and_then_absent() -> None:
    """The exporter's default counters leave it out; null, not 0."""
    assert GpuFigures(0.5, None) == figures(gpu(dcgm.GPU_UTIL, 50))


def test_the_engine_activity_stands_in_for_utilisation() -> None:
    """Only where there is no utilisation of that GPU."""
    assert GpuFigures(0.996, None) == figures(gpu(dcgm.ENGINE_ACTIVE, 0.996))
    assert GpuFigures(0.5, None) == figures(gpu(dcgm.GPU_UTIL, 50) + gpu(dcgm.ENGINE_ACTIVE, 0.9))


@pytest.mark.parametrize("blank", [9223372036854775794, 9223372036854775792, "9.223372036854776e+18", "NaN", -1])
def test_blank_values_are_absent(blank: object) -> None:
    """DCGM writes a number near 2^63 for no value."""
    assert GpuFigures(None, None) == figures(gpu(dcgm.GPU_UTIL, blank) + gpu(dcgm.SM_ACTIVE, blank))
    assert GpuFigures(0.5, None) == figures(gpu(dcgm.GPU_UTIL, blank) + gpu(dcgm.ENGINE_ACTIVE, 0.5))


def test_gpus_are_averaged() -> None:
    """Two GPUs of one instance."""
    assert GpuFigures(0.75, None) == figures(gpu(dcgm.GPU_UTIL, 50, 0) + gpu(dcgm.GPU_UTIL, 100, 1))


@pytest.mark.parametrize("label", ["Hostname", "hostname"])
def test_equal_gpus_of_two_hosts_are_two_gpus(label: str) -> None:
    """The label was renamed; both are understood."""
    lines = [f'{dcgm.GPU_UTIL}{{gpu="0",{label}="{host}"}} {value}\n' for host, value in (("a", 0), ("b", 100))]
    assert GpuFigures(0.5, None) == figures("".join(lines))


def test_slices_count_only_where_the_whole_gpu_is_not_measured() -> None:
    """A MIG slice is part of the GPU beside it."""
    slices = gpu(dcgm.ENGINE_ACTIVE, 0.2, GPU_I_ID="1") + gpu(dcgm.ENGINE_ACTIVE, 0.4, GPU_I_ID="2")
    assert figures(slices + gpu(dcgm.ENGINE_ACTIVE, 0.9)) == GpuFigures(0.9, None)
    found = figures(slices)
    assert found is not None
    assert found.gpu_util == pytest.approx(0.3)


def test_a_pod_gets_its_own_gpus() -> None:
    """A node's exporter speaks for all pods of the node and says whose each GPU is."""
    page_text = gpu(dcgm.GPU_UTIL, 10, 0, pod="i1") + gpu(dcgm.GPU_UTIL, 90, 1, pod="i2")
    assert GpuFigures(0.1, None) == figures(page_text, "i1")
    assert GpuFigures(0.5, None) == figures(page_text, "not-there")


def test_a_pod_never_gets_the_gpus_of_others() -> None:
    """Where the page names pods, one that it does not name has none; where it names nobody, the node is one engine's."""
    named = page.parse((gpu(dcgm.GPU_UTIL, 10, 0, pod="pod-1") + gpu(dcgm.GPU_UTIL, 90, 1, pod="") + gpu(dcgm.GPU_UTIL, 70, 2)).encode())
    assert GpuFigures(0.1, None) == dcgm.figures(dcgm.of_pod(named, "pod-1"), "i1")
    assert dcgm.figures(dcgm.of_pod(named, "pod-2"), "i2") is None
    unnamed = page.parse((gpu(dcgm.GPU_UTIL, 20, 0, pod="") + gpu(dcgm.GPU_UTIL, 40, 1, pod="")).encode())
    assert dcgm.of_pod(unnamed, "pod-1") == unnamed
    assert GpuFigures(0.4, None) == dcgm.figures(dcgm.of_indices(unnamed, [1, 2]), "i1")


def test_a_page_without_gpus_is_told_apart_from_idle_gpus() -> None:
    """Null is no page of an exporter; 0 is an idle GPU."""
    assert figures("vllm:num_requests_running 1\n") is None
    assert GpuFigures(0.0, None) == figures(gpu(dcgm.GPU_UTIL, 0))
