"""`heteroscale status`: all services at a glance."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from heteroscale.cli import output
from heteroscale.cli.commands.services import mode_text
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.spec_store import SpecStore
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import Duration, instant_text


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """The newest of everything about one service, at a moment of the log's own time."""

    spec: ServiceSpec
    now_ms: int
    window: SignalWindow | None
    decision: Decision | None
    placement: Placement | None

    @property
    def behind_ms(self) -> int | None:
        """How far the newest decision lags behind the newest tick."""
        return None if self.decision is None else max(0, self.now_ms - self.decision.at_ms)

    def counts(self) -> dict[str, dict[str, int | None]]:
        """Per role: commanded, ready and serving."""
        ready = self._ready()
        after = self.decision.after if self.decision else {}
        seen = self.window.roles if self.window else {}
        return {
            role: {
                "desired": after[role].replicas if role in after else None,
                "ready": ready.get(role, 0) if self.placement else None,
                "serving": seen[role].instances.serving if role in seen else None,
            }
            for role in sorted(self.spec.roles)
        }

    def _ready(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        for group in self.placement.groups if self.placement else []:
            for instance in group.instances:
                if instance.state is InstanceState.READY:
                    counts[instance.role] = counts.get(instance.role, 0) + 1
        return counts


@click.command(
    epilog="""\b
Examples:
  heteroscale status
  heteroscale status chat-70b --json""",
)
@click.argument("services", metavar="[SERVICE]...", nargs=-1)
@json_option
@connection_options
def status(services: tuple[str, ...], *, as_json: bool) -> None:
    """All services at a glance: replicas commanded, ready and serving, the last decision, the placement, how far behind."""
    standings = run_async(_standings(services))
    if as_json:
        for standing in standings:
            output.emit(_document(standing))
    elif not standings:
        output.note("no service has a spec yet; heteroscale apply SPEC.yaml")
    else:
        output.table(
            ("service", "mode", "desired", "ready", "serving", "last decision", "reason", "placement", "behind"),
            [_row(standing) for standing in standings],
        )


async def _standings(services: tuple[str, ...]) -> list[Standing]:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        store = SpecStore(view)
        specs = [await store.get(service) for service in services] if services else list((await store.in_force()).values())
        now_ms = await view.now_ms() if specs else 0
        return [
            Standing(
                spec=spec,
                now_ms=now_ms,
                window=await view.newest(SignalWindow, Topic.SIGNALS, spec.service),
                decision=await view.newest(Decision, Topic.DECISIONS, spec.service),
                placement=await view.newest(Placement, Topic.PLACEMENTS, spec.service),
            )
            for spec in specs
        ]


def _row(standing: Standing) -> tuple[Any, ...]:
    counts = standing.counts()
    decision, placement = standing.decision, standing.placement
    short = sum(placement.shortfall.values()) if placement else 0
    return (
        standing.spec.service,
        mode_text(standing.spec),
        *(_by_role(counts, key) for key in ("desired", "ready", "serving")),
        None if decision is None else f"{decision.action.value} {instant_text(decision.at_ms)}",
        None if decision is None else decision.reason.value,
        None if placement is None else placement.status.value + (f" (short of {short})" if short else ""),
        None if standing.behind_ms is None else str(Duration(standing.behind_ms // 1000 * 1000)),
    )


def _by_role(counts: dict[str, dict[str, int | None]], key: str) -> str | None:
    if all(count[key] is None for count in counts.values()):
        return None
    return " ".join(f"{role} {'-' if count[key] is None else count[key]}" for role, count in counts.items())


def _document(standing: Standing) -> dict[str, Any]:
    decision, placement = standing.decision, standing.placement
    return {
        "service": standing.spec.service,
        "fleet": standing.spec.fleet,
        "mode": standing.spec.mode.value,
        "revision": standing.spec.revision,
        "roles": standing.counts(),
        "decision": None
        if decision is None
        else {"id": decision.id, "at_ms": decision.at_ms, "action": decision.action.value, "reason": decision.reason.value},
        "placement": None
        if placement is None
        else {"at_ms": placement.at_ms, "status": placement.status.value, "shortfall": placement.shortfall},
        "now_ms": standing.now_ms,
        "behind_ms": standing.behind_ms,
    }
