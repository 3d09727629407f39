"""GPU figures of an instance from a DCGM exporter's page: utilisation in 0..1, means over its GPUs.

`DCGM_FI_DEV_GPU_UTIL` is a percentage, the PROF figures are ratios. `DCGM_FI_PROF_SM_ACTIVE` is commented out in the exporter's
default counters: without it `sm_active` is null. DCGM writes 2^63 - 14 and its neighbours for "no value"; those are absent.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple, TypeAlias

from heteroscale.contracts.names import InstanceName
from heteroscale.telemetry.page import Page, Series, is_number

GPU_UTIL = "DCGM_FI_DEV_GPU_UTIL"
ENGINE_ACTIVE = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
SM_ACTIVE = "DCGM_FI_PROF_SM_ACTIVE"
_POD_LABELS = ("pod", "exported_pod")

_Gpu: TypeAlias = tuple[str, str]


class GpuFigures(NamedTuple):
    """Means over the GPUs; null where none has the figure."""

    gpu_util: float | None
    sm_active: float | None


def figures(page: Page, instance: InstanceName) -> GpuFigures | None:
    """Figures of the GPUs that the page gives to the pod `instance`, else of all; null if the page has no GPU at all."""
    if not any(page.series.get(name) for name in (GPU_UTIL, ENGINE_ACTIVE, SM_ACTIVE)):
        return None
    percent = {gpu: value / 100 for gpu, value in _per_gpu(page, GPU_UTIL, instance).items()}
    utilisation = _per_gpu(page, ENGINE_ACTIVE, instance) | percent
    return GpuFigures(gpu_util=_mean(utilisation), sm_active=_mean(_per_gpu(page, SM_ACTIVE, instance)))


def of_pod(page: Page, pod: str) -> Page:
    """The page cut down to the GPUs of a pod; all of it where it names no pods."""
    names_pods = any(_pods(series) for name in (GPU_UTIL, ENGINE_ACTIVE, SM_ACTIVE) for series in page.series.get(name, ()))
    return _cut(page, lambda series: pod in _pods(series)) if names_pods else page


def of_indices(page: Page, indices: Collection[int]) -> Page:
    """The page cut down to some GPUs of its node."""
    own = {str(index) for index in indices}
    return _cut(page, lambda series: series.label("gpu") in own)


def _cut(page: Page, keeps: Callable[[Series], bool]) -> Page:
    return Page({name: [series for series in found if keeps(series)] for name, found in page.series.items()}, [])


def _pods(series: Series) -> list[str]:
    """Whose the GPU is; empty for nobody's."""
    return [pod for label in _POD_LABELS if (pod := series.label(label))]


def _per_gpu(page: Page, name: str, instance: InstanceName) -> dict[_Gpu, float]:
    """One value a GPU: of the whole GPU, or the mean of its MIG slices where only those are measured."""
    found = [series for series in page.series.get(name, ()) if is_number(series.value)]
    ours = [series for series in found if instance in _pods(series)]
    parts: dict[_Gpu, list[Series]] = {}
    for series in ours or found:
        parts.setdefault(_gpu(series), []).append(series)
    return {gpu: _whole_or_slices(series) for gpu, series in parts.items()}


def _whole_or_slices(series: Sequence[Series]) -> float:
    whole = [part.value for part in series if not part.label("GPU_I_ID")]
    values = whole or [part.value for part in series]
    return math.fsum(values) / len(values)


def _gpu(series: Series) -> _Gpu:
    """A GPU of a host; the exporter's `Hostname` label became `hostname`."""
    host = series.label("Hostname") or series.label("hostname") or ""
    return host, series.label("UUID") or series.label("gpu") or ""


def _mean(values: dict[_Gpu, float]) -> float | None:
    usable = [values[gpu] for gpu in sorted(values) if values[gpu] <= 1]
    return math.fsum(usable) / len(usable) if usable else None
