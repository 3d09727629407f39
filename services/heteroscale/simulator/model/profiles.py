"""What engines can do: measured curves per GPU type, interpolated inside what was measured and never beyond it.

Owns the curves and their sources. A curve is that of one engine on `engine_gpus` GPUs; an instance with more GPUs runs
that many engines side by side.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import yaml

from heteroscale.contracts.errors import Rejected

Floats = npt.NDArray[np.float64]

POINTS: Final = 128
GRID: Final = 1.0 - (1.0 - np.linspace(0.0, 1.0, POINTS + 1)) ** 2  # load as a share of the plateau, denser towards it
NAMES: Final = ("h200_llama8b", "h20_deepseek_r1")


@dataclass(frozen=True, slots=True)
class PrefillCurve:
    """Prompt throughput of one engine over prompt length (tokens, tokens/s), both ascending in length."""

    engine_gpus: float
    isl: Floats
    tokens_per_s: Floats
    source: str

    def rate(self, prompt_tokens: Floats | float) -> Floats:
        """Tokens/s of one engine on prompts of this length; flat outside what was measured."""
        return np.asarray(np.interp(prompt_tokens, self.isl, self.tokens_per_s))

    def seconds(self, prompt_tokens: Floats | float) -> Floats:
        """Time one prompt takes on an idle engine."""
        return np.asarray(prompt_tokens) / self.rate(prompt_tokens)


@dataclass(frozen=True, slots=True)
class DecodeCurve:
    """Decoding of one engine over load and context.

    `peak` (c): plateau of tokens/s at each context. `itl_s`, `kv` (c, g): inter-token latency and KV share in use at
    load GRID[g] of that plateau.
    """

    engine_gpus: float
    context: Floats
    peak: Floats
    itl_s: Floats
    kv: Floats
    source: str

    def peak_rate(self, context: Floats | float) -> Floats:
        """Most tokens/s one engine gives at this context."""
        return np.asarray(np.interp(context, self.context, self.peak))

    def latency_s(self, load: Floats | float, context: Floats | float) -> Floats:
        """Inter-token latency at `load` (share of the plateau, clipped to 0..1)."""
        return self._at(self.itl_s, load, context)

    def kv_usage(self, load: Floats | float, context: Floats | float) -> Floats:
        """KV share in use at `load`."""
        return self._at(self.kv, load, context)

    def rate_within(self, context: float, itl_s: float | None) -> float:
        """Most tokens/s with an inter-token latency of at most `itl_s` (null: the plateau); at least 1 % of the plateau."""
        plateau = float(self.peak_rate(context))
        if itl_s is None:
            return plateau
        fits = GRID[self.latency_s(GRID, context) <= itl_s]
        return plateau * max(0.01, float(fits[-1]) if len(fits) else 0.0)

    def at(self, load: Floats | float, context: Floats | float) -> tuple[Floats, Floats]:
        """Inter-token latency and KV share at once: half the price of asking for one after the other."""
        cell = self._cell(load, context)
        return _bilinear(self.itl_s, cell), _bilinear(self.kv, cell)

    def _at(self, table: Floats, load: Floats | float, context: Floats | float) -> Floats:
        return _bilinear(table, self._cell(load, context))

    def _cell(self, load: Floats | float, context: Floats | float) -> Cell:
        """Where (context, load) lies in the tables."""
        load = np.minimum(np.maximum(load, 0.0), 1.0)
        at_column = (1.0 - np.sqrt(1.0 - load)) * POINTS  # the inverse of GRID
        column = np.minimum(at_column.astype(np.int64), POINTS - 1)
        right = at_column - column
        if len(self.context) == 1:
            row = np.zeros(np.broadcast_shapes(np.shape(load), np.shape(context)), dtype=np.int64)
            return Cell(row, row, column, right, np.zeros(row.shape))
        at = np.minimum(np.maximum(context, self.context[0]), self.context[-1])
        row = np.searchsorted(self.context[1:-1], at, side="right")
        down = (at - self.context[row]) / (self.context[row + 1] - self.context[row])
        return Cell(row, row + 1, column, right, np.asarray(down))


@dataclass(frozen=True, slots=True)
class Cell:
    """Places between the points of a table (context, load): rows above and below, column, and how far on to the next of each."""

    row: npt.NDArray[np.int64]
    next_row: npt.NDArray[np.int64]
    column: npt.NDArray[np.int64]
    right: Floats
    down: Floats


def _bilinear(table: Floats, cell: Cell) -> Floats:
    left, right = 1.0 - cell.right, cell.right
    upper = table[cell.row, cell.column] * left + table[cell.row, cell.column + 1] * right
    lower = table[cell.next_row, cell.column] * left + table[cell.next_row, cell.column + 1] * right
    return np.asarray(upper * (1.0 - cell.down) + lower * cell.down)


@dataclass(frozen=True, slots=True)
class Profile:
    """Curves per GPU type, and what belongs to the model they were measured with."""

    name: str
    prefill: Mapping[str, PrefillCurve]
    decode: Mapping[str, DecodeCurve]
    kv_bytes_per_token: float
    link_bytes_per_s: float
    startup_s: float
    startup_spread: float = 0.2
    drain_s: float = 10.0


def decode_curve(points: Mapping[float, Sequence[tuple[float, float, float]]], engine_gpus: float, source: str) -> DecodeCurve:
    """A curve from measured (kv usage, inter-token latency s, tokens/s) by context.

    Up to its plateau the throughput of a context ascends, so load leads back to one latency; points past the plateau
    (queueing, preemption) give no more throughput and are left out.
    """
    contexts = np.array(sorted(points), dtype=np.float64)
    peak, itl, kv = [], [], []
    for context in contexts:
        rising: list[tuple[float, float, float]] = []
        for point in sorted(points[float(context)]):
            if not rising or point[2] > rising[-1][2]:
                rising.append(point)
        table = np.array([(0.0, rising[0][1], 0.0), *rising])
        load = table[:, 2] / table[-1, 2]
        peak.append(table[-1, 2])
        itl.append(np.interp(GRID, load, np.maximum.accumulate(table[:, 1])))
        kv.append(np.interp(GRID, load, table[:, 0]))
    return DecodeCurve(engine_gpus, contexts, np.array(peak), np.stack(itl), np.stack(kv), source)


def load(name: str) -> Profile:
    """A profile by name, or from a YAML file. Raises Rejected that lists the names."""
    match name:
        case "h200_llama8b":
            return _h200_llama8b()
        case "h20_deepseek_r1":
            return _h20_deepseek_r1()
    if Path(name).is_file():
        return _from_file(Path(name))
    raise Rejected("unknown_profile", f"no profile {name!r}; have {', '.join(NAMES)}, or give a file", "--profile")


def _data(path: str) -> list[dict[str, str]]:
    text = resources.files("heteroscale.simulator").joinpath(f"data/profiles/{path}").read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text)))


def _h200_llama8b() -> Profile:
    source = "measured: Llama-3.1-8B-Instruct-FP8, vLLM, H200, TP1 (ai-dynamo 1.6.1)"
    prefill = _data("h200_llama8b/H200_TP1_prefill.csv")
    points: dict[float, list[tuple[float, float, float]]] = {}
    for row in _data("h200_llama8b/H200_TP1_decode.csv"):
        point = (float(row["kv_usage"]), float(row["itl_ms"]) / 1000, float(row["thpt_tok_per_s_per_gpu"]))
        points.setdefault(float(row["context_length"]), []).append(point)
    isl = np.array([float(row["isl"]) for row in prefill])
    rate = np.array([float(row["thpt_tok_per_s_per_gpu"]) for row in prefill])
    return Profile(
        name="h200_llama8b",
        prefill={"H200": PrefillCurve(1.0, isl, rate, source)},
        decode={"H200": decode_curve(points, 1.0, source)},
        kv_bytes_per_token=131_072.0,  # 32 layers, 8 KV heads of 128, bf16
        link_bytes_per_s=50e9,  # one 400 Gb/s port
        startup_s=120.0,
    )


def _h20_deepseek_r1() -> Profile:
    source = "measured: DeepSeek-R1-FP8, SGLang 0.5.2, H20-96G (LMSYS, 2025-09-26)"
    rows = _data("h20_deepseek_r1/h20_deepseek_r1.csv")
    per_node = next(float(row["value"]) for row in rows if row["phase"] == "prefill" and row["unit"] == "tok/s/node")
    measured = [row for row in rows if row["parallelism"] == "DP16+EP16" and row["mtp_steps"] == "1" and "EP32" not in row["note"]]
    gpus, context = 8.0, 4096.0 + 1536.0 / 2
    batches = sorted((float(row["batch_per_gpu"]), float(row["value"])) for row in measured)
    largest = batches[-1][0]
    points = [(batch / largest, batch / rate, rate * gpus) for batch, rate in batches]
    return Profile(
        name="h20_deepseek_r1",
        prefill={"H20": PrefillCurve(gpus, np.array([4096.0]), np.array([per_node]), source)},
        decode={"H20": decode_curve({context: points}, gpus, source)},
        kv_bytes_per_token=70_272.0,  # 61 layers of MLA, 512 + 64, bf16
        link_bytes_per_s=50e9,
        startup_s=240.0,
    )


def _from_file(path: Path) -> Profile:
    """A profile of one's own, in YAML; docs/simulator.md shows one. Raises Rejected with the field."""
    try:
        document = yaml.safe_load(path.read_text("utf-8"))
        prefill = {kind: _prefill_of(curve, f"{path}") for kind, curve in document["prefill"].items()}
        decode = {kind: _decode_of(curve, f"{path}") for kind, curve in document["decode"].items()}
        return Profile(
            name=str(document.get("name", path.stem)),
            prefill=prefill,
            decode=decode,
            kv_bytes_per_token=float(document.get("kv_bytes_per_token", 131_072)),
            link_bytes_per_s=float(document.get("link_bytes_per_s", 50e9)),
            startup_s=float(document.get("startup_s", 120)),
            startup_spread=float(document.get("startup_spread", 0.2)),
            drain_s=float(document.get("drain_s", 10)),
        )
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError, yaml.YAMLError) as error:
        what = f"missing {error}" if isinstance(error, KeyError) else str(error)
        raise Rejected("profile", f"{what}; a profile has prefill and decode curves per GPU type", str(path)) from error


def _prefill_of(curve: Mapping[str, Any], source: str) -> PrefillCurve:
    points = np.array(sorted(curve["points"]), dtype=np.float64)  # [prompt tokens, tokens/s]
    return PrefillCurve(float(curve["engine_gpus"]), points[:, 0], points[:, 1], str(curve.get("source", source)))


def _decode_of(curve: Mapping[str, Any], source: str) -> DecodeCurve:
    points: dict[float, list[tuple[float, float, float]]] = {}
    for context, kv, itl_ms, rate in curve["points"]:
        points.setdefault(float(context), []).append((float(kv), float(itl_ms) / 1000, float(rate)))
    return decode_curve(points, float(curve["engine_gpus"]), str(curve.get("source", source)))
