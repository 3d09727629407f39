"""`heteroscale explain-spec SPEC.yaml`: every effective value, its unit, and whether the file or a default says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import click
import msgspec

from heteroscale.cli import completing, output
from heteroscale.cli.options import json_option
from heteroscale.cli.spec_diff import WRITTEN_BY_US
from heteroscale.cli.spec_files import LoadedSpec, load_sound
from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.units import Duration, Instant, Percent
from heteroscale.decision.specs.problems import Path, path_text

UNITS = {
    "gpus": "GPUs an instance",
    "min": "replicas",
    "max": "replicas",
    "count": "instances",
    "replicas": "replicas",
    "weight": "x throughput",
    "priority": "larger first",
    "ratio": "parts",
    "min_coverage": "fraction",
    "start": "time of day",
    "end": "time of day",
    "timezone": "IANA zone",
    "value": "percent or pods",
}
_METRIC_UNITS = {"decode_tps": "tokens/s", "prefill_tps": "tokens/s", "prefill_missed_tps": "tokens/s"}


class Effective(NamedTuple):
    """One field of a spec that is in effect."""

    field: str
    value: Any
    unit: str
    source: str


@click.command(
    "explain-spec",
    epilog="""\b
Examples:
  heteroscale explain-spec chat.yaml
  heteroscale explain-spec chat.yaml --only given
  heteroscale explain-spec chat.yaml --json""",
)
@click.argument("paths", metavar="SPEC.yaml...", nargs=-1, required=True, shell_complete=completing.files)
@click.option("--only", type=click.Choice(["given", "default"]), help="Only what the file states, or only what it leaves to defaults.")
@json_option
def explain_spec(paths: tuple[str, ...], *, only: str | None, as_json: bool) -> None:
    """Print every effective value of a spec, its unit and its source."""
    for loaded in load_sound(paths):
        fields = [field for field in effective(loaded) if only in {None, field.source}]
        if as_json:
            for field in fields:
                output.emit({"service": loaded.spec.service, **field._asdict()})
        else:
            output.table(("field", "value", "unit", "source"), fields)


def effective(loaded: LoadedSpec) -> list[Effective]:
    """All fields in the order of the spec, lists and mappings opened."""
    shown: list[Effective] = []
    for field in _walk(loaded, loaded.spec, ()):
        if field.field == "slo":
            shown += _slo_of_guards(loaded.spec)
        elif field.field not in WRITTEN_BY_US:
            shown.append(field)
    return shown


def _slo_of_guards(spec: ServiceSpec) -> list[Effective]:
    """Without `slo`, the tightest moderate threshold of each latency's guards stands for it; without guards there is none."""
    tightest = {
        latency: min((guard.moderate for guard in spec.guards if guard.latency == latency), key=lambda span: span.ms, default=None)
        for latency in ("ttft", "tbt")
    }
    return [
        Effective(f"slo.{latency}", None if span is None else _shown(span), "" if span is None else "duration", "default")
        for latency, span in tightest.items()
    ]


def _walk(loaded: LoadedSpec, value: Any, path: Path) -> Iterator[Effective]:
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            yield from _walk(loaded, getattr(value, name), (*path, name))
    elif isinstance(value, dict) and value:
        for name, inner in sorted(value.items()):
            yield from _walk(loaded, inner, (*path, name))
    elif isinstance(value, list) and any(isinstance(inner, msgspec.Struct) for inner in value):
        for index, inner in enumerate(value):
            yield from _walk(loaded, inner, (*path, index))
    else:
        source = "given" if path in loaded.reading.given else "default"
        yield Effective(path_text(path), _shown(value), _unit(loaded, value, path), source)


def _shown(value: Any) -> Any:
    if isinstance(value, list):
        return "[" + ", ".join(str(item) for item in value) + "]"
    if isinstance(value, Duration | Percent | Instant):
        return codec.unit_to_text(value)
    return getattr(value, "value", value)


def _unit(loaded: LoadedSpec, value: Any, path: Path) -> str:
    if isinstance(value, Duration):
        return "duration"
    if isinstance(value, Percent):
        return "percent"
    if isinstance(value, Instant):
        return "instant"
    if path[-1] == "target" and isinstance(path[1], int):
        metric = loaded.spec.signals[path[1]].metric.value
        return f"{_METRIC_UNITS.get(metric, 'fraction')} an instance of weight 1"
    if path[0] == "ratio" or "replicas" in path:
        return UNITS["ratio" if path[0] == "ratio" else "replicas"]
    return UNITS.get(str(path[-1]), "") if value is not None else ""
