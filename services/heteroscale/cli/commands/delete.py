"""`heteroscale delete SERVICE [--drain]`: let a service go."""

from __future__ import annotations

import asyncio

import click
import msgspec

from heteroscale.cli import output
from heteroscale.cli.durations import DURATION
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.spec_store import SpecStore
from heteroscale.contracts.errors import Retryable
from heteroscale.contracts.placements import Placement, PlacementStatus
from heteroscale.contracts.spec import Mode, RoleSpec, ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.contracts.units import Duration
from heteroscale.runtime import clock

LOOK_EVERY_S = 0.5


@click.command(
    epilog="""\b
Examples:
  heteroscale delete chat-70b --drain
  heteroscale delete chat-70b        # instances stay as they are""",
)
@click.argument("service")
@click.option("--drain", is_flag=True, help="First command 0 replicas and wait until nothing runs.")
@click.option("--timeout", type=DURATION, default="30m", show_default=True, help="How long --drain may take.")
@json_option
@connection_options
def delete(service: str, *, drain: bool, timeout: Duration, as_json: bool) -> None:
    """Let a service go: no more decisions or commands.

    Without --drain its instances and their reservations stay until somebody stops them.
    """
    run_async(_delete(service, timeout if drain else None))
    if as_json:
        output.emit({"service": service, "deleted": True, "drained": drain})
    else:
        click.echo(f"{service}: let go" + (", drained" if drain else ""))


async def _delete(service: str, patience: Duration | None) -> None:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        store = SpecStore(view)
        spec = await store.get(service)
        if patience is not None:
            applied = await store.apply(emptied(spec), reason="delete --drain", force=True)
            if await _ever_placed(view, spec):
                await _until_empty(view, service, patience)
            output.note(f"{service}: drained under revision {applied.spec.revision}")
        await store.let_go(service)


def emptied(spec: ServiceSpec) -> ServiceSpec:
    """The spec that commands nothing: min = max = 0 everywhere, active, no schedule in the way."""
    roles: dict[str, RoleSpec] = {name: msgspec.structs.replace(role, min=0, max=0) for name, role in spec.roles.items()}
    return msgspec.structs.replace(spec, roles=roles, mode=Mode.ACTIVE, until=None, then=None, schedules=[], revision=None)


async def _ever_placed(view: LogView, spec: ServiceSpec) -> bool:
    return await view.newest(Placement, Topic.PLACEMENTS, spec.service) is not None


async def _until_empty(view: LogView, service: str, patience: Duration) -> None:
    """Wait for a converged Placement without instances. Raises Retryable that says what still runs."""
    deadline_s = clock.monotonic_s() + patience.ms / 1_000
    shown = -1
    while True:
        placement = await view.newest(Placement, Topic.PLACEMENTS, service)
        left = sum(len(group.instances) for group in placement.groups) if placement else 0
        if placement is not None and left == 0 and placement.status is PlacementStatus.CONVERGED:
            return
        if left != shown:
            output.note(f"{service}: {left} instances still run")
            shown = left
        if clock.monotonic_s() > deadline_s:
            raise Retryable(f"{service} is not drained after {patience}: {left} instances still run; its spec stays, at 0 replicas")
        await asyncio.sleep(LOOK_EVERY_S)
