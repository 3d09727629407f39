"""The live view: a table that redraws itself on a terminal, plain lines where there is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from heteroscale.contracts.decisions import Action, Decision
from heteroscale.contracts.units import instant_text
from heteroscale.simulator.figures.view import ServiceView, View

BLOCKS: Final = " ▁▂▃▄▅▆▇█"
HISTORY: Final = 48
MOVES_SHOWN: Final = 6
PLAIN_EVERY_MS: Final = 3_600_000
COLOURS: Final = {Action.SCALE_OUT: "green", Action.SCALE_IN: "yellow", Action.RESTORE: "magenta", Action.FINALIZE: "cyan"}


class Screen(Protocol):
    """Where the day is shown."""

    def show(self, view: View) -> None:
        """The newest moment."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def screen_for(console: Console) -> Screen:
    """The table on a terminal, lines elsewhere."""
    return TableScreen(console) if console.is_terminal else LineScreen(console.out)


class LineScreen:
    """A line per service and simulated hour, and a line per move."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._next_ms = 0

    def show(self, view: View) -> None:
        """Moves at once, the rest once an hour."""
        for move in view.moves:
            self._write(f"{clock(move.at_ms)} {move.service}: {move_text(move)}")
        if view.now_ms >= self._next_ms:
            self._next_ms = view.now_ms - view.now_ms % PLAIN_EVERY_MS + PLAIN_EVERY_MS
            for service in view.services:
                self._write(f"{clock(view.now_ms)} {line_text(service)}")

    def close(self) -> None:
        """Nothing to undo."""


class TableScreen:
    """Redraws at most eight times a second."""

    def __init__(self, console: Console) -> None:
        self._demand: dict[str, deque[float]] = {}
        self._moves: deque[Decision] = deque(maxlen=MOVES_SHOWN)
        self._bucket = -1
        self._live = Live(console=console, refresh_per_second=8, transient=True)
        self._live.start()

    def show(self, view: View) -> None:
        """Redraw."""
        self._moves.extend(view.moves)
        bucket = int(max(0.0, view.progress) * HISTORY)
        for service in view.services:
            history = self._demand.setdefault(service.service, deque(maxlen=HISTORY))
            if bucket != self._bucket or not history:
                history.append(service.demand_rps)
        self._bucket = bucket
        self._live.update(Group(self._header(view), self._table(view), *[_move_line(move) for move in self._moves]))

    def close(self) -> None:
        """Give the terminal back."""
        self._live.stop()

    @staticmethod
    def _header(view: View) -> Table:
        header = Table.grid(padding=(0, 2))
        phase = "warm-up" if view.progress < 0 else f"{view.progress:.0%}"
        header.add_row(
            Text(instant_text(view.now_ms), style="bold"), ProgressBar(total=1.0, completed=max(0.0, view.progress), width=40), phase
        )
        return header

    def _table(self, view: View) -> Table:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("service", "demand", "req/s", "decode tok/s", "replicas", "pending", "draining", "GPU util", "latest decision"):
            table.add_column(
                column, no_wrap=True, justify="right" if column in {"req/s", "decode tok/s", "pending", "draining"} else "left"
            )
        for service in view.services:
            table.add_row(
                Text(service.service, style="bold"),
                Text(sparkline(list(self._demand[service.service])), style="blue"),
                f"{service.demand_rps:,.0f}",
                "-" if service.decode_tps is None else f"{service.decode_tps:,.0f}",
                replicas_text(service),
                str(service.pending),
                str(service.draining),
                util_text(service),
                "-" if service.decision is None else f"{service.decision.action} ({service.decision.reason})",
            )
        return table


def sparkline(values: list[float]) -> str:
    """Values as bar characters, the largest one full."""
    top = max(values, default=0.0)
    if top <= 0:
        return " " * len(values)
    return "".join(BLOCKS[round(value / top * (len(BLOCKS) - 1))] for value in values)


def clock(at_ms: int) -> str:
    """Day's time, as `05-15 08:30`."""
    text = instant_text(at_ms)
    return f"{text[5:10]} {text[11:16]}"


def replicas_text(service: ServiceView) -> str:
    """`prefill 20 decode 4`."""
    return " ".join(f"{role} {count}" for role, count in sorted(service.replicas.items(), reverse=True))


def util_text(service: ServiceView) -> str:
    """`prefill 71% decode 96%`."""
    return " ".join(f"{role} {share:.0%}" for role, share in sorted(service.gpu_util.items(), reverse=True)) or "-"


def line_text(service: ServiceView) -> str:
    """One service in one line."""
    tps = "-" if service.decode_tps is None else f"{service.decode_tps:,.0f}"
    latest = "-" if service.decision is None else f"{service.decision.action} ({service.decision.reason})"
    return (
        f"{service.service}: demand {service.demand_rps:,.0f} req/s, decode {tps} tok/s, {replicas_text(service)}, "
        f"pending {service.pending}, GPU util {util_text(service)}, latest {latest}"
    )


def move_text(move: Decision) -> str:
    """`scale-out (demand): prefill 15 → 20, decode 3 → 4`."""
    changes = []
    for role, after in sorted(move.after.items(), reverse=True):
        before = move.before.get(role)
        was = before.replicas if before else 0
        draining = f" (+{after.draining} draining)" if after.draining else ""
        changes.append(f"{role} {was} → {after.replicas}{draining}")
    return f"{move.action} ({move.reason}): {', '.join(changes)}"


def _move_line(move: Decision) -> Text:
    text = Text(f"  {clock(move.at_ms)} ", style="dim")
    text.append(f"{move.service} ", style="bold")
    text.append(move_text(move), style=COLOURS.get(move.action, ""))
    return text
