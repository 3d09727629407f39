"""The page docs/settings.md, from the settings themselves; a test keeps them equal.

`python -m heteroscale.cli.settings_reference > docs/settings.md` writes it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any, Final

import click
import msgspec

from heteroscale.actuation.settings import ActuatorSettings
from heteroscale.decision.settings import DecisionSettings
from heteroscale.placement.settings import PlacementSettings
from heteroscale.runtime.settings import BusSettings, ProcessSettings, RedisSettings, variable_of
from heteroscale.signals.settings import SignalsSettings
from heteroscale.telemetry.export_settings import ExportSettings

HEAD: Final = """# Settings

Generated from the settings (`python -m heteroscale.cli.settings_reference > docs/settings.md`). A process reads the environment, then the
TOML file that `HETEROSCALE_CONFIG` names, then the default: `HETEROSCALE_SASL_USERNAME=heteroscale` is in TOML

    [bus]
    sasl_username = "heteroscale"

`heteroscale run SERVICE --settings` prints what would be used, passwords hidden. What makes no sense is refused at start, with the
variable, its value and what to write. `HETEROSCALE_CACHE` names the folder of `heteroscale servers` and `demo` (default `.cache`).

A secured broker and a secured Redis, as the tests have them:

    export HETEROSCALE_KAFKA=broker:9093 HETEROSCALE_SECURITY_PROTOCOL=SASL_SSL HETEROSCALE_SASL_MECHANISM=SCRAM-SHA-512
    export HETEROSCALE_SASL_USERNAME=heteroscale HETEROSCALE_SASL_PASSWORD=… HETEROSCALE_TLS_CA=/etc/kafka/ca.pem
    export HETEROSCALE_REDIS=rediss://redis:6379/0 HETEROSCALE_REDIS_PASSWORD=… HETEROSCALE_REDIS_TLS_CA=/etc/redis/ca.pem
    heteroscale doctor
"""
PAGES: Final[tuple[tuple[str, type[msgspec.Struct]], ...]] = (
    ("Kafka, for every command and process", BusSettings),
    ("Redis, for the placement service and the commands that look into the inventory", RedisSettings),
    ("Every process", ProcessSettings),
    ("The signals service", SignalsSettings),
    ("The decision service", DecisionSettings),
    ("The placement service", PlacementSettings),
    ("Actuators", ActuatorSettings),
    ("The exporter", ExportSettings),
)


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    known: set[str] = set()
    for title, kind in PAGES:
        rows = [row for field in msgspec.structs.fields(kind) if field.name not in known for row in _row(kind, field)]
        if kind is RedisSettings:
            known |= {field.name for field in msgspec.structs.fields(kind)}
        table: str = getattr(kind, "title", "")
        parts.append("\n".join([f"## {title}: `[{table}]`\n", "| variable | default | what it is |", "|---|---|---|", *rows, ""]))
    return "\n".join(parts)


def _row(kind: type[msgspec.Struct], field: msgspec.structs.FieldInfo) -> Iterator[str]:
    notes = [note for note in getattr(field.type, "__metadata__", ()) if isinstance(note, msgspec.Meta)]
    about = (notes[0].description or "").replace("|", "\\|") if notes else ""
    examples = notes[0].examples if notes else None
    example = f"`{examples[0]}`" if examples and examples[0] != "…" else ""
    such_as = f"; such as {example}" if example not in {"", _shown(field)} else ""
    yield f"| `{variable_of(kind, field.name)}` | {_shown(field)} | {about}{such_as} |"


def _shown(field: msgspec.structs.FieldInfo) -> str:
    """The default as one would write it."""
    value: Any = field.default if field.default is not msgspec.NODEFAULT else None
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value.value if isinstance(value, enum.Enum) else value}`"


if __name__ == "__main__":
    click.echo(page(), nl=False)
