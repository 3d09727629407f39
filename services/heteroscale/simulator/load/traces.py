"""The traces that come with the package, and synthetic ones, by name."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping
from datetime import datetime
from importlib import resources
from typing import Final

import numpy as np

from heteroscale.contracts.errors import Rejected
from heteroscale.simulator.load import traffic
from heteroscale.simulator.load.traffic import Floats, Traffic

WINDOW_S: Final = 600.0
DAY_S: Final = 86_400.0
MINUTE_S: Final = 60.0
REQUEST: Final = (1.0, 1_000.0, 200.0, 0.0)  # what a synthetic request is: prompt and output tokens, none cached


def _rows(path: str) -> list[dict[str, str]]:
    text = resources.files("heteroscale.simulator").joinpath(f"data/{path}").read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text.lstrip("\ufeff"))))


def azure_2023() -> Traffic:
    """An hour of Azure 2023 conversation, request by request."""
    rows = _rows("azure_llm_2023/conv_requests.csv")
    at = [datetime.fromisoformat(row["TIMESTAMP"][:26]) for row in rows]
    lines = ["at_s,prompt_tokens,output_tokens"]
    lines += [
        f"{(when - at[0]).total_seconds()},{row['ContextTokens']},{row['GeneratedTokens']}" for when, row in zip(at, rows, strict=True)
    ]
    return traffic.parse("\n".join(lines), "azure-2023-conv")


def servegen(model: str) -> Traffic:
    """Windows of ten minutes. A window without any rate is a gap of the collection: it takes the mean of its neighbours."""
    rows = _rows(f"servegen/{model}_10min.csv")
    rate = np.array([float(row["total_rate_rps"]) for row in rows])
    lengths = np.array([[float(row["mean_input_tokens"] or "nan"), float(row["mean_output_tokens"] or "nan")] for row in rows])
    every = np.arange(len(rows))
    there = (rate > 0) & ~np.isnan(lengths).any(axis=1)
    filled = [np.interp(every, every[there], column[there]) for column in (rate, lengths[:, 0], lengths[:, 1])]
    requests = filled[0] * WINDOW_S
    totals = np.stack([requests, requests * filled[1], requests * filled[2], np.zeros(len(rows))], axis=1)
    return Traffic(f"servegen-{model}", np.arange(len(rows) + 1, dtype=np.float64) * WINDOW_S, totals)


def synthetic(shape: str) -> Traffic:
    """Requests/s by the minute over a day; see TRACES for the shapes."""
    minute = np.arange(int(DAY_S / MINUTE_S), dtype=np.float64)
    share = minute / len(minute)
    match shape:
        case "ramp":
            rate = 10.0 + 90.0 * share
        case "step":
            rate = np.where(share < 0.5, 20.0, 80.0)
        case "spike":
            rate = np.where((minute >= 720) & (minute < 725), 100.0, 20.0)
        case _:
            noise = np.random.default_rng(7).lognormal(0.0, 0.1, len(minute))
            rate = (55.0 - 45.0 * np.cos(2 * np.pi * share)) * noise
    totals: Floats = rate[:, None] * MINUTE_S * np.array(REQUEST)
    return Traffic(f"synthetic-{shape}", np.arange(len(minute) + 1, dtype=np.float64) * MINUTE_S, totals)


TRACES: Final[Mapping[str, tuple[Callable[[], Traffic], str]]] = {
    "azure-2024-code": (lambda: traffic.azure_weekday("code"), "Azure 2024, code completion, a weekday"),
    "azure-2024-conv": (lambda: traffic.azure_weekday("conv"), "Azure 2024, conversation, a weekday"),
    "azure-2023-conv": (azure_2023, "Azure 2023, conversation, an hour, request by request"),
    "servegen-m-small": (lambda: servegen("m-small"), "ServeGen, m-small, 14 days, windows of ten minutes"),
    "servegen-deepseek-r1": (lambda: servegen("deepseek-r1"), "ServeGen, DeepSeek-R1, 24 hours, windows of ten minutes"),
    "synthetic-ramp": (lambda: synthetic("ramp"), "10 to 100 requests/s over a day"),
    "synthetic-step": (lambda: synthetic("step"), "20 requests/s, from noon 80"),
    "synthetic-spike": (lambda: synthetic("spike"), "20 requests/s, five minutes of 100 at noon"),
    "synthetic-diurnal": (lambda: synthetic("diurnal"), "10 to 100 requests/s and back over a day, 10 % noise by the minute"),
}


def load(name: str) -> Traffic:
    """A trace by name. Raises Rejected that lists the names."""
    if name not in TRACES:
        raise Rejected("trace", f"no trace {name!r}; have {', '.join(TRACES)}, or give a file", "--trace")
    return TRACES[name][0]()


def piece(trace: Traffic, from_s: float, until_s: float) -> Traffic:
    """The part of a trace between two of its edges, moved to begin at 0."""
    keep = (trace.edges_s >= from_s - 1e-9) & (trace.edges_s <= until_s + 1e-9)
    edges = trace.edges_s[keep]
    first = int(np.argmax(keep))
    return Traffic(trace.name, edges - edges[0], trace.totals[first : first + len(edges) - 1], trace.prompt_cv, trace.smooth)
