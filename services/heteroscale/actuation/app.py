"""The actuator process: wires a subscriber to the dry-run actuator. Other actuators are wired the same way."""

from __future__ import annotations

from heteroscale.actuation.dry_run import DryRunActuator
from heteroscale.actuation.settings import ActuatorSettings, Follow
from heteroscale.actuation.subscriber import CommandSubscriber, Interest, PlacementSubscriber
from heteroscale.runtime.context import Context


async def serve(context: Context, settings: ActuatorSettings) -> None:
    """Follow assignments until `context.stop`.

    Raises Retryable when an acknowledgement cannot be written, Broken past the dead-letter limits.
    """
    interest = Interest(actuator=settings.actuator_name, fleet=settings.actuator_fleet, services=settings.services())
    if settings.actuator_follow is Follow.COMMANDS:
        async with CommandSubscriber(context.log, context.prefix, interest, stop=context.stop, registry=context.metrics) as commands:
            actuator = DryRunActuator(commands.acknowledge, settings.actuator_answers)
            async for command in commands:
                await actuator.scale(command)
        return
    async with PlacementSubscriber(context.log, context.prefix, interest, stop=context.stop, registry=context.metrics) as placements:
        actuator = DryRunActuator(placements.acknowledge, settings.actuator_answers)
        async for placement in placements:
            await actuator.place(placement)
