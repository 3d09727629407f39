"""`heteroscale pause|resume|suspend SERVICE`: a new revision of the spec that changes its mode, for a time, with a reason."""

from __future__ import annotations

import click
import msgspec

from heteroscale.cli import output
from heteroscale.cli.durations import DURATION
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of, connection_options, json_option, run_async
from heteroscale.cli.spec_store import Applied, Revision, SpecStore
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.contracts.units import Duration, Instant

RESTING = frozenset({Mode.PAUSED, Mode.PAUSED_IN, Mode.PAUSED_OUT, Mode.SUSPENDED})
_PAUSES = {"both": Mode.PAUSED, "in": Mode.PAUSED_IN, "out": Mode.PAUSED_OUT}

_for = click.option("--for", "span", type=DURATION, metavar="DURATION", help="How long, such as 2h; without it until resumed.")
_reason = click.option("--reason", metavar="TEXT", help="Why; kept with the revision.")


@click.command(
    epilog="""\b
Examples:
  heteroscale pause chat-70b --for 2h --reason "load test"
  heteroscale pause chat-70b --direction in --for 30m""",
)
@click.argument("service")
@click.option("--direction", type=click.Choice(sorted(_PAUSES)), default="both", show_default=True, help="Which way to stop scaling.")
@_for
@_reason
@json_option
@connection_options
def pause(service: str, *, direction: str, span: Duration | None, reason: str | None, as_json: bool) -> None:
    """Stop scaling a service, for a time. Its instances stay, and its command stays affirmed."""
    _show(run_async(_rest(service, _PAUSES[direction], span, reason)), as_json=as_json)


@click.command(
    epilog="""\b
Example:
  heteroscale suspend chat-70b --for 1d --reason "moved by hand" """,
)
@click.argument("service")
@_for
@_reason
@json_option
@connection_options
def suspend(service: str, *, span: Duration | None, reason: str | None, as_json: bool) -> None:
    """Stop commanding a service altogether, for a time: not even affirmations are sent."""
    _show(run_async(_rest(service, Mode.SUSPENDED, span, reason)), as_json=as_json)


@click.command(
    epilog="""\b
Examples:
  heteroscale resume chat-70b
  heteroscale resume chat-70b --mode active""",
)
@click.argument("service")
@click.option("--mode", type=click.Choice([mode.value for mode in Mode if mode not in RESTING]), help="The mode to go on in.")
@_reason
@json_option
@connection_options
def resume(service: str, *, mode: str | None, reason: str | None, as_json: bool) -> None:
    """Go back to the mode before a pause."""
    _show(run_async(_resume(service, Mode(mode) if mode else None, reason)), as_json=as_json)


async def _rest(service: str, mode: Mode, span: Duration | None, reason: str | None) -> Applied:
    connection = connection_of()
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        store = SpecStore(view)
        spec = await store.get(service)
        until = None if span is None else Instant(-(-(await view.now_ms() + span.ms) // 1_000) * 1_000)  # whole seconds read better
        then = mode_before(spec, await store.history(service)) if until is not None else None
        wanted = msgspec.structs.replace(spec, mode=mode, until=until, then=then)
        return await store.apply(wanted, reason=reason or mode.value, force=True)


async def _resume(service: str, mode: Mode | None, reason: str | None) -> Applied:
    connection = connection_of()
    async with connection.log() as log:
        store = SpecStore(LogView(log, connection.prefix))
        spec = await store.get(service)
        if mode is None and spec.mode not in RESTING:
            raise Rejected("not_paused", f"is not paused but {spec.mode.value}; name another mode with --mode", service)
        back = mode or mode_before(spec, await store.history(service))
        wanted = msgspec.structs.replace(spec, mode=back, until=None, then=None)
        return await store.apply(wanted, reason=reason or "resume")


def mode_before(spec: ServiceSpec, history: list[Revision]) -> Mode:
    """The mode that a pause interrupted: what it wrote as `then`, else the newest one that is no pause; shadow if there is none."""
    if spec.mode not in RESTING:
        return spec.mode
    if spec.then is not None:
        return spec.then
    modes = [revision.spec.mode for revision in history if revision.spec is not None]
    return next((mode for mode in reversed(modes) if mode not in RESTING), Mode.SHADOW)


def _show(applied: Applied, *, as_json: bool) -> None:
    spec = applied.spec
    if as_json:
        output.emit(
            {
                "service": spec.service,
                "revision": spec.revision,
                "mode": spec.mode.value,
                "until": None if spec.until is None else str(spec.until),
                "then": None if spec.then is None else spec.then.value,
                "reason": spec.reason,
            },
        )
        return
    span = f" until {spec.until}, then {spec.then.value}" if spec.until is not None and spec.then is not None else ""
    click.echo(f"{spec.service}: {spec.mode.value}{span} (revision {spec.revision})")
