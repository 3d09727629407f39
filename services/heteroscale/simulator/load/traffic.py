"""Offered load: trace files become a step function of requests and tokens, and that becomes what each step offers.

Owns the trace formats and the split of an interval's total among its steps. Knows nothing of engines or services.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np
import numpy.typing as npt

from heteroscale.contracts.errors import Rejected

Floats = npt.NDArray[np.float64]

COLUMNS: Final = ("requests", "prompt_tokens", "output_tokens", "cached_prompt_tokens")
REQUESTS, PROMPT, OUTPUT, CACHED = range(4)
BIN_S: Final = 5.0  # requests of a per-request trace are gathered in bins of this length
AZURE_ROW_S: Final = 300.0
AZURE_ROW_STANDS_FOR: Final = 5.0  # minutes: each row is one minute's total, and its rate holds for five
PROMPT_CV: Final = 1.0  # spread of prompt lengths where a trace gives totals only (Azure 2023 conversation: 0.96)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Totals per interval. `edges_s` (k + 1) ascending from 0; `totals` (k, 4) in the order of COLUMNS."""

    name: str
    edges_s: Floats
    totals: Floats
    prompt_cv: float = PROMPT_CV
    smooth: bool = True  # totals of intervals: arrivals inside one are ours to draw

    @property
    def duration_s(self) -> float:
        """Length of the trace."""
        return float(self.edges_s[-1])

    def scaled(self, factor: float) -> Traffic:
        """The same shape with `factor` times the load."""
        return Traffic(self.name, self.edges_s, self.totals * factor, self.prompt_cv, self.smooth)

    def until(self, end_s: float) -> Traffic:
        """The trace from its start to `end_s`; an interval that is cut keeps its share."""
        if end_s >= self.duration_s:
            return self
        edges = np.append(self.edges_s[self.edges_s < end_s], end_s)
        share = np.diff(edges) / np.diff(self.edges_s)[: len(edges) - 1]
        return Traffic(self.name, edges, self.totals[: len(edges) - 1] * share[:, None], self.prompt_cv, self.smooth)

    def steps(self, step_s: float, seed: int) -> Floats:
        """What each step offers, shape (ceil(duration / step), 4).

        Arrivals inside an interval are Poisson given the interval's total, so the total is kept exactly and the same
        seed gives the same steps. A per-request trace is taken as it is.
        """
        count = int(np.ceil(self.duration_s / step_s - 1e-9))
        bounds = np.minimum(np.arange(count + 1) * step_s, self.duration_s)
        if not self.smooth:
            return self._shares(bounds)
        fine = np.union1d(bounds, self.edges_s)
        pieces = self._shares(fine)
        interval = np.searchsorted(self.edges_s, fine[:-1], side="right") - 1
        drawn = np.random.default_rng(seed).poisson(pieces[:, REQUESTS]).astype(np.float64)
        got = np.bincount(interval, weights=drawn, minlength=len(self.totals))
        empty = got[interval] == 0
        share = np.where(empty, np.diff(fine) / np.diff(self.edges_s)[interval], drawn / np.where(empty, 1.0, got[interval]))
        split = share[:, None] * self.totals[interval]
        step = np.searchsorted(bounds, fine[:-1], side="right") - 1
        return np.stack([np.bincount(step, weights=split[:, column], minlength=count) for column in range(4)], axis=1)

    def _shares(self, bounds: Floats) -> Floats:
        """Totals between neighbouring bounds when each interval's rate is even, shape (len(bounds) - 1, 4)."""
        cumulative = np.concatenate([np.zeros((1, 4)), np.cumsum(self.totals, axis=0)])
        at_bounds = np.stack([np.interp(bounds, self.edges_s, cumulative[:, column]) for column in range(4)], axis=1)
        shares: Floats = np.diff(at_bounds, axis=0)
        return shares


def parse(text: str, name: str) -> Traffic:
    """A trace CSV, per request or per interval by its header. Raises Rejected with the file's line and column."""
    rows = csv.DictReader(io.StringIO(text.lstrip("\ufeff")))
    header = [column.strip() for column in rows.fieldnames or []]
    per_interval = "requests" in header
    needed = ["at_s", "prompt_tokens", "output_tokens"]
    missing = [column for column in needed if column not in header]
    if missing:
        cure = "a trace has at_s,[requests,]prompt_tokens,output_tokens[,cached_prompt_tokens]"
        raise Rejected("trace_header", f"no column {missing[0]}; {cure}", f"{name}:1")
    rows.fieldnames = header
    columns = (*needed, "requests", "cached_prompt_tokens")
    table = np.array(
        [[_number(row, column, f"{name}:{line}", header) for column in columns] for line, row in enumerate(rows, 2)], dtype=np.float64
    )
    if not len(table):
        raise Rejected("trace_empty", "the trace has a header and no rows", name)
    table[:, 3] = table[:, 3] if per_interval else 1.0
    order = np.argsort(table[:, 0], kind="stable")
    if per_interval and np.any(np.diff(table[:, 0]) <= 0):
        raise Rejected("trace_order", "intervals must start in ascending order, each once", name)
    table = table[order]
    return _from_intervals(name, table) if per_interval else _from_requests(name, table)


def _number(row: dict[str, str], column: str, place: str, header: Sequence[str]) -> float:
    if column not in header:
        return 0.0
    text = (row.get(column) or "").strip()
    try:
        value = float(text or "nan")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value) or value < 0:
        raise Rejected("trace_value", f"{column} is {text!r}; write a number from 0", place)
    return value


def _from_intervals(name: str, table: Floats) -> Traffic:
    starts: Floats = table[:, 0] - table[0, 0]
    last = float(starts[-1] - starts[-2]) if len(starts) > 1 else 60.0
    return Traffic(name, np.append(starts, starts[-1] + last).astype(np.float64), table[:, [3, 1, 2, 4]])


def _from_requests(name: str, table: Floats) -> Traffic:
    at = table[:, 0] - table[0, 0]
    bins = (at // BIN_S).astype(np.int64)
    count = int(bins[-1]) + 1
    totals = np.stack([np.bincount(bins, weights=table[:, column], minlength=count) for column in (3, 1, 2, 4)], axis=1)
    prompts = table[:, 1]
    spread = float(np.std(prompts) / np.mean(prompts)) if np.mean(prompts) > 0 else 0.0
    return Traffic(name, np.arange(count + 1, dtype=np.float64) * BIN_S, totals.astype(np.float64), spread, smooth=False)


def azure_weekday(service: str) -> Traffic:
    """The weekday of Azure 2024 for `code` or `conv`: 288 rows, the rate of each holding for five minutes."""
    text = resources.files("heteroscale.simulator").joinpath("data/azure_llm_2024/weekday_5min_samples.csv").read_text("utf-8")
    rows = list(csv.DictReader(io.StringIO(text)))
    minutes = [[float(row[f"{service}_{column}"]) for column in ("requests", "context_tokens", "generated_tokens")] for row in rows]
    totals = np.array([[*minute, 0.0] for minute in minutes]) * AZURE_ROW_STANDS_FOR
    return Traffic(f"azure-2024-weekday-{service}", np.arange(len(totals) + 1, dtype=np.float64) * AZURE_ROW_S, totals)
