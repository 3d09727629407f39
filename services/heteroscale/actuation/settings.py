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


class ActuatorKind(enum.StrEnum):
    """How assignments are carried out."""

    DRY_RUN = "dry-run"
    FILE = "file"
    WEBHOOK = "webhook"
    KUBERNETES = "kubernetes"


class ActuatorSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By default it only says what it would do and reports nothing: nothing has happened, and the loop must not believe otherwise."""

    title: ClassVar[str] = "actuator"

    actuator_kind: Annotated[ActuatorKind, Meta(description="dry-run, file, webhook or kubernetes", examples=["file"])] = (
        ActuatorKind.DRY_RUN
    )
    actuator_follow: Annotated[Follow, Meta(description="placements, or commands for services without placement")] = Follow.PLACEMENTS
    actuator_name: Annotated[
        Annotated[str, Meta(min_length=1)] | None, Meta(description="its name in acknowledgements; none = its kind", examples=["east"])
    ] = None
    actuator_answers: Annotated[Answers, Meta(description="of dry-run: silent, or pretend: acknowledge every order at once")] = (
        Answers.SILENT
    )
    actuator_fleet: Annotated[FleetName | None, Meta(description="only this fleet; none = all", examples=["default"])] = None
    actuator_services: Annotated[str | None, Meta(description="only these, comma-separated; none = all", examples=["chat,code"])] = None
    actuator_directory: Annotated[str | None, Meta(description="of file: where desired state goes", examples=["/var/lib/h"])] = None
    actuator_url: Annotated[
        Annotated[str, Meta(pattern=r"^https?://\S+$")] | None, Meta(description="of webhook: where to post", examples=["https://h/scale"])
    ] = None
    actuator_secret: Annotated[str | None, Meta(description="signs what is posted or put; never printed", examples=["…"])] = None
    actuator_timeout_ms: Annotated[  # the other side need only take note, not be done
        int, Meta(ge=100, le=120_000, description="limit of one request, ms", examples=["5000"])
    ] = 5_000
    actuator_registrar: Annotated[
        str | None,
        Meta(description="directory, or URL to PUT to, of who takes requests; none = nowhere", examples=["/run/routes"]),
    ] = None
    actuator_address: Annotated[
        str, Meta(description="address of an instance: {node}, {instance}, {role}, {service}, {group}", examples=["http://{node}:8000"])
    ] = "http://{node}:8000"
    actuator_cluster: Annotated[str | None, Meta(description="of kubernetes: only groups in it; none = all", examples=["c1"])] = None
    actuator_targets: Annotated[
        str | None, Meta(description="of kubernetes: a YAML file of scale targets", examples=["/etc/heteroscale/targets.yaml"])
    ] = None
    actuator_drain_ms: Annotated[  # the longest answers of chat services end within five minutes
        int,
        Meta(ge=0, le=86_400_000, description="of kubernetes: a stopping pod with work ends after this, ms", examples=["300000"]),
    ] = 300_000
    actuator_apply: Annotated[
        bool, Meta(description="of kubernetes: false = say what would be changed and change nothing", examples=["false"])
    ] = True

    def name(self) -> str:
        """Its name in acknowledgements."""
        return self.actuator_name or self.actuator_kind.value

    def services(self) -> frozenset[ServiceName] | None:
        """The services named, or null for all."""
        if self.actuator_services is None:
            return None
        return frozenset(name.strip() for name in self.actuator_services.split(",") if name.strip())
