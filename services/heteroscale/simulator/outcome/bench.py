"""Plays many orders: in several processes if asked, told as they end, and kept, so that a run that was interrupted goes on.

A trial is a function of its order, of the model and, for ours, of the law; both versions stand in its file's name. Everything else about
a cell (who compares it with what) is `compare`'s.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from heteroscale.decision.controller import POLICY_VERSION
from heteroscale.runtime.clock import SYSTEM
from heteroscale.simulator import policies
from heteroscale.simulator.outcome.trial import Order, Trial

MODEL_VERSION: Final = 1  # raised when the same order of a baseline comes to other figures
OTHERS: Final = frozenset(policies.ABOUT) - {policies.OURS}

Report = Callable[[str], None]
Play = Callable[[Order], Trial]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Finished trials as JSON files under a folder; without a folder nothing is kept."""

    folder: Path | None = None

    def find(self, order: Order) -> Trial | None:
        """The trial of this order if it is there and can be read."""
        if self.folder is None:
            return None
        try:
            return msgspec.json.decode(self._path(self.folder, order).read_bytes(), type=Trial)
        except (FileNotFoundError, msgspec.DecodeError):
            return None

    def keep(self, order: Order, trial: Trial) -> None:
        """Put a trial away, whole or not at all."""
        if self.folder is None:
            return
        path = self._path(self.folder, order)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        draft.write_bytes(msgspec.json.format(msgspec.json.encode(trial), indent=1))
        draft.replace(path)

    @staticmethod
    def _path(folder: Path, order: Order) -> Path:
        made_by = f"m{MODEL_VERSION}" if order.policy in OTHERS else f"m{MODEL_VERSION}p{POLICY_VERSION}"
        setting = "default" if order.setting is None else f"{order.setting:g}"
        length = "" if order.hours is None else f"-{order.hours:g}h"
        policy = re.sub(r"\W+", "-", order.policy.lower())
        return folder / order.case / f"{policy}-{setting}-start{order.startup_s:g}s-seed{order.seed}{length}-{made_by}.json"


@dataclass(frozen=True, slots=True)
class Bench:
    """Where and how trials are played."""

    jobs: int
    shelf: Shelf
    report: Report

    def run(self, orders: Sequence[Order], play: Play, what: str) -> list[Trial]:
        """The trials of the orders, in their order; `play` must be a module's function, so that other processes find it."""
        done = {order: kept for order in orders if (kept := self.shelf.find(order)) is not None}
        left = [order for order in dict.fromkeys(orders) if order not in done]
        whole, began = len(done) + len(left), SYSTEM.monotonic_s()
        if done:
            self.report(f"{what}: {len(done)} of {whole} runs are there already")
        for number, (order, trial) in enumerate(self._played(left, play), 1):
            self.shelf.keep(order, trial)
            done[order] = trial
            minutes = (SYSTEM.monotonic_s() - began) / number * (len(left) - number) / 60
            self.report(f"{what} {len(done)}/{whole}, {minutes:.0f} min left: {told(trial)}")
        return [done[order] for order in orders]

    def _played(self, orders: Sequence[Order], play: Play) -> Iterator[tuple[Order, Trial]]:
        """As they end."""
        if self.jobs <= 1 or len(orders) <= 1:
            yield from ((order, play(order)) for order in orders)
            return
        with ProcessPoolExecutor(max_workers=self.jobs) as pool:
            waited = {pool.submit(play, order): order for order in orders}
            try:
                for future in as_completed(waited):
                    yield waited[future], future.result()
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


def told(trial: Trial) -> str:
    """A run in one line."""
    setting = "default" if trial.setting is None else f"{trial.setting:g}"
    which = f"{trial.case} {trial.policy} {setting}, start-up {trial.startup_s:g} s, seed {trial.seed}"
    return f"{which}: {trial.gpu_hours:,.0f} GPU-hours, {trial.slo_attainment:.2%} ({trial.wall_s:.1f} s)"
