"""The actuator process: subscriber → a desk a service → registrar and actuator. What it does is chosen by its settings."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol, TypeVar, assert_never

from heteroscale.actuation.desks import Bell, Desks
from heteroscale.actuation.dry_run import DryRunActuator
from heteroscale.actuation.file import FileActuator
from heteroscale.actuation.registrar import FileRegistrar, HttpRegistrar, Registrar
from heteroscale.actuation.settings import ActuatorKind, ActuatorSettings, Follow
from heteroscale.actuation.signed_http import Recipient
from heteroscale.actuation.subscriber import (
    Acknowledger,
    Assignment,
    CommandSubscriber,
    Interest,
    PlacementSubscriber,
    Subscriber,
)
from heteroscale.actuation.webhook import WebhookActuator
from heteroscale.bus.dead_letters import limits_of
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Placement
from heteroscale.runtime.context import Context

V = TypeVar("V", Placement, Command)


class Actuator(Protocol):
    """Carries out assignments. Each call brings the newest; a result of seconds asks to be called again with it."""

    async def place(self, assignment: Assignment[Placement]) -> float | None:
        """Instances on nodes. Raises Retryable."""
        ...

    async def scale(self, assignment: Assignment[Command]) -> float | None:
        """Counts, of a service without placement. Raises Retryable."""
        ...

    async def close(self) -> None:
        """Let go of what is held."""
        ...


async def serve(context: Context, settings: ActuatorSettings) -> None:
    """Follow assignments until `context.stop`. Raises Rejected for settings, Broken past the dead-letter limits."""
    interest = Interest(
        actuator=settings.name(),
        fleet=settings.actuator_fleet,
        services=settings.services(),
        limits=limits_of(context.bus),
    )
    acknowledge = Acknowledger(context.log, context.prefix, interest.actuator, context.metrics)
    bell = Bell()
    registrar = _registrar(settings)
    actuator = _actuator(context, settings, acknowledge, bell)

    async def place(assignment: Assignment[Placement]) -> float | None:
        if registrar is not None:  # routes first: nothing may be sent to what is about to end
            await registrar.register(assignment.value)
        return await actuator.place(assignment)

    async def scale(assignment: Assignment[Command]) -> float | None:
        placed_elsewhere = assignment.value.affinity is not None and settings.actuator_kind is not ActuatorKind.DRY_RUN
        return None if placed_elsewhere else await actuator.scale(assignment)

    try:
        if settings.actuator_follow is Follow.COMMANDS:
            commands = CommandSubscriber(context.log, context.prefix, interest, stop=context.stop, registry=context.metrics)
            await _follow(context, commands, scale, bell)
        else:
            placements = PlacementSubscriber(context.log, context.prefix, interest, stop=context.stop, registry=context.metrics)
            await _follow(context, placements, place, bell)
    finally:
        await actuator.close()
        if registrar is not None:
            await registrar.close()


async def _follow(
    context: Context, subscriber: Subscriber[V], work: Callable[[Assignment[V]], Awaitable[float | None]], bell: Bell
) -> None:
    """Lay each assignment on its desk until `stop`; a desk that breaks ends the service."""
    desks = Desks(work, context.metrics)
    bell.heard_by(desks.nudge)

    async def feed() -> None:
        async for assignment in subscriber:
            desks.put(assignment.value)

    async with subscriber:
        feeding = asyncio.create_task(feed(), name="assignments")
        try:
            await asyncio.wait({feeding, desks.broken}, return_when=asyncio.FIRST_COMPLETED)
            if desks.broken.done():
                desks.broken.result()
            await feeding
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await desks.close()


def _registrar(settings: ActuatorSettings) -> Registrar | None:
    """Where routes go, if anywhere. Raises Rejected (`settings`)."""
    where = settings.actuator_registrar
    if where is None:
        return None
    if settings.actuator_follow is Follow.COMMANDS:
        cure = "commands place nothing, so nothing is routed; leave out HETEROSCALE_ACTUATOR_REGISTRAR, or follow placements"
        raise Rejected("settings", cure, "actuator")
    if where.startswith(("http://", "https://")):
        return HttpRegistrar(_recipient(settings, where), settings.actuator_address)
    return FileRegistrar(Path(where), settings.actuator_address)


def _recipient(settings: ActuatorSettings, url: str) -> Recipient:
    return Recipient(url=url, secret=settings.actuator_secret, timeout_ms=settings.actuator_timeout_ms)


def _actuator(context: Context, settings: ActuatorSettings, acknowledge: Acknowledger, bell: Bell) -> Actuator:
    """The one that the settings name. Raises Rejected (`settings`) for what it lacks."""
    match settings.actuator_kind:
        case ActuatorKind.DRY_RUN:
            return DryRunActuator(acknowledge, settings.actuator_answers)
        case ActuatorKind.FILE:
            directory = _needed(settings.actuator_directory, "HETEROSCALE_ACTUATOR_DIRECTORY=/path", "file")
            return FileActuator(acknowledge, Path(directory))
        case ActuatorKind.WEBHOOK:
            url = _needed(settings.actuator_url, "HETEROSCALE_ACTUATOR_URL=https://host/path", "webhook")
            return WebhookActuator(acknowledge, _recipient(settings, url))
        case ActuatorKind.KUBERNETES:
            return _kubernetes(context, settings, acknowledge, bell)
        case _:
            assert_never(settings.actuator_kind)


def _kubernetes(context: Context, settings: ActuatorSettings, acknowledge: Acknowledger, bell: Bell) -> Actuator:
    """Imported only where it is used. Raises Rejected (`settings`) that names the extra to install."""
    try:
        from heteroscale.actuation.kubernetes import build  # noqa: PLC0415 (the extra `kubernetes` may not be installed)
    except ModuleNotFoundError as error:
        raise Rejected("settings", f"{error}; install it: pip install 'heteroscale[kubernetes]'", "kubernetes") from error
    return build(context, settings, acknowledge, bell)


def _needed(value: str | None, cure: str, kind: str) -> str:
    if value is None:
        raise Rejected("settings", f"the {kind} actuator needs {cure}", "actuator")
    return value
