"""Following a topic: the last records, then new ones; decoded into one readable line or one JSON document each."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any, Final

import click
import msgspec
import orjson

from heteroscale.bus import scan
from heteroscale.bus.log import Record
from heteroscale.cli import output
from heteroscale.cli.log_view import LogView
from heteroscale.cli.options import connection_of
from heteroscale.contracts import keys
from heteroscale.contracts.topics import CATALOGUE, Topic
from heteroscale.contracts.units import instant_text

POLL_MS: Final = 1_000
FIELD_CHARACTERS_MAX: Final = 100


class Tail(msgspec.Struct, frozen=True, kw_only=True):
    """What to show: records of a topic (of one key), the last so many or since an instant, and whether to go on."""

    topic: Topic
    key: str | None = None
    last: int = 10
    since_ms: int | None = None
    following: bool = False


async def follow(tail: Tail, *, as_json: bool) -> None:
    """Print what is there in time order, then what comes, until interrupted."""
    connection = connection_of()
    show = print_json if as_json else print_line
    async with connection.log() as log:
        view = LogView(log, connection.prefix)
        places = await view.partitions(tail.topic)
        if tail.key is not None and CATALOGUE[tail.topic].key == "service":
            places = [await view.home(tail.topic, tail.key)]
        ends = await log.end_offsets(places)
        begins = await log.begin_offsets(places)
        start = begins
        if tail.since_ms is not None:
            found = await log.offsets_for_time(dict.fromkeys(places, tail.since_ms))
            start = {at: offset if (offset := found[at]) is not None else ends[at] for at in places}
        elif tail.key is None:
            start = {at: max(begins[at], ends[at] - tail.last) for at in places}
        held = [record async for batch in scan.to_end(log, places, start) for record in batch if _wanted(record, tail.key)]
        held.sort(key=lambda record: (record.timestamp_ms, record.partition, record.offset))
        for record in held if tail.since_ms is not None else held[len(held) - min(tail.last, len(held)) :]:
            show(record)
        if tail.following:
            reader = log.reader(ends)
            try:
                while True:
                    for record in await reader.poll(timeout_ms=POLL_MS):
                        if _wanted(record, tail.key):
                            show(record)
            finally:
                await reader.close()


def _wanted(record: Record, key: str | None) -> bool:
    """Whether a record has this key (hourly copies and dry runs included) or is about this service."""
    if key is None:
        return True
    if key in {keys.text_of(record.key), keys.service_of(record.key)}:
        return True
    value = value_of(record)
    return isinstance(value, dict) and value.get("service") == key


def print_json(record: Record) -> None:
    """One document: where it lies, and the value whole."""
    output.emit(
        {
            "topic": record.topic,
            "partition": record.partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            "key": None if record.key is None else keys.text_of(record.key),
            "value": value_of(record),
        },
    )


def value_of(record: Record) -> Any:
    """The value as a document; what is no JSON as `{"base64": …}`."""
    if record.value is None:
        return None
    try:
        return orjson.loads(record.value)
    except orjson.JSONDecodeError:
        return {"base64": base64.b64encode(record.value).decode()}


def print_line(record: Record) -> None:
    """Place, time, key, and the fields that say most."""
    key = "-" if record.key is None else keys.text_of(record.key)
    click.echo(f"{record.partition}@{record.offset}  {instant_text(record.timestamp_ms)}  {key}  {summary(value_of(record))}")


def summary(value: Any) -> str:
    """The fields of a message that say most, in one line."""
    if value is None:
        return "(tombstone)"
    if not isinstance(value, dict):
        return _cut(str(value))
    for marks, tell in _TELLERS.items():
        if all(mark in value for mark in marks):
            try:
                return tell(value)
            except (KeyError, TypeError, AttributeError, ValueError):
                break
    return _cut(orjson.dumps(value).decode())


def _counts(roles: Mapping[str, Any], *fields: str) -> str:
    return " ".join(f"{role}=" + "/".join(str(counts.get(field)) for field in fields) for role, counts in sorted(roles.items()))


def _window(value: Mapping[str, Any]) -> str:
    roles = " ".join(
        f"{name}: {role['instances'].get('serving', 0)} serving, {role.get('decode_tps')} decode/s, {role.get('prefill_tps')} prefill/s;"
        for name, role in sorted(value["roles"].items())
    )
    return f"window to {instant_text(value['end_ms'])} {roles}"


def _placement(value: Mapping[str, Any]) -> str:
    count = sum(len(group["instances"]) for group in value["groups"])
    dry = " (dry run)" if value.get("dry_run") else ""
    short = f" short of {value['shortfall']}" if value.get("shortfall") else ""
    return f"{value['status']}{dry} revision {value['revision']}: {len(value['groups'])} groups, {count} instances{short}"


_TELLERS: Final[Mapping[tuple[str, ...], Callable[[Mapping[str, Any]], str]]] = {
    ("kind", "samples"): lambda value: f"{len(value['samples'])} samples from {value.get('source') or '-'}",
    ("kind", "actuator"): lambda value: f"{value['instance']} {value['kind']} ({value['actuator']})",
    ("kind", "at_ms"): lambda value: f"tick {instant_text(value['at_ms'])}",
    ("end_ms", "roles"): _window,
    ("action", "stages"): lambda value: f"{value['id']} {value['action']} ({value['reason']}) {_counts(value['after'], 'replicas')}",
    ("law", "inputs"): lambda value: f"state after {(value.get('decision') or {}).get('id')}",
    ("decision_id", "roles"): lambda value: (
        f"{value['id']} revision {value['revision']}{' (dry run)' if value.get('dry_run') else ''} "
        f"{_counts(value['roles'], 'replicas', 'draining')}"
    ),
    ("status", "groups"): _placement,
    ("node", "gpus"): lambda value: f"{value['state']} {value['gpus']} x {value['gpu_type']}, {value['used']} used",
    ("payload", "code"): lambda value: _cut(f"{value['stage']} {value['code']}: {value['message']}"),
    ("signals", "ratio"): lambda value: f"revision {value.get('revision')} {value['mode']} {_counts(value['roles'], 'min', 'max')}",
}


def _cut(text: str) -> str:
    return text if len(text) <= FIELD_CHARACTERS_MAX else text[: FIELD_CHARACTERS_MAX - 1] + "…"
