"""Settings of the actuator process."""

from __future__ import annotations

import enum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from heteroscale.contracts.names import FleetName, ServiceName


class Follow(enum.StrEnum):
    """What the actuator carries out."""

    PLACEMENTS = "placements"
    COMMANDS = "commands"


class Answers(enum.StrEnum):
    """What the dry-run actuator reports back."""

    SILENT = "silent"
    PRETEND = "pretend"


class ActuatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the dry-run actuator. By default it reports nothing: nothing has happened, and the loop must not believe otherwise."""

    title: ClassVar[str] = "actuator"

    actuator_follow: Annotated[Follow, Meta(description="placements, or commands for services without placement")] = Follow.PLACEMENTS
    actuator_name: Annotated[str, Meta(min_length=1, description="its name in acknowledgements", examples=["dry-run"])] = "dry-run"
    actuator_answers: Annotated[Answers, Meta(description="silent, or pretend: acknowledge every order at once, to try the loop out")] = (
        Answers.SILENT
    )
    actuator_fleet: Annotated[FleetName | None, Meta(description="only this fleet; none = all", examples=["default"])] = None
    actuator_services: Annotated[str | None, Meta(description="only these, comma-separated; none = all", examples=["chat,code"])] = None

    def services(self) -> frozenset[ServiceName] | None:
        """The services named, or null for all."""
        if self.actuator_services is None:
            return None
        return frozenset(name.strip() for name in self.actuator_services.split(",") if name.strip())
