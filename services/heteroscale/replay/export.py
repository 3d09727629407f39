"""A recorded topic as Parquet, for notebooks. Needs pyarrow (the `parquet` extra); read as a stream, written in row groups."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec

from heteroscale.contracts import keys
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.replay.bundle import Bundle

ROWS: Final = 5_000  # a row group, and what is held in memory
LOOKED_AT: Final = 5_000  # records that the columns are worked out from
PLACE: Final = ("partition", "offset", "timestamp_ms", "key")


def to_parquet(bundle: Bundle, topic: Topic, target: Path) -> int:
    """Write a topic, one row a record: its place, the message's plain fields as columns, everything else as JSON text.

    Returns the rows written. Raises Rejected (`no_pyarrow`, `empty`).
    """
    try:
        pa: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        raise Rejected("no_pyarrow", "pyarrow is not installed; pip install 'heteroscale[parquet]'", "--parquet") from error
    kinds = _kinds(bundle, topic)
    if not kinds:
        raise Rejected("empty", f"the bundle holds no record of {topic.value}", str(bundle.folder))
    types = {int: pa.int64(), float: pa.float64(), bool: pa.bool_(), str: pa.string()}
    place = [("partition", pa.int32()), ("offset", pa.int64()), ("timestamp_ms", pa.timestamp("ms", tz="UTC")), ("key", pa.string())]
    schema = pa.schema([*place, *((name, types[kind]) for name, kind in kinds.items())])
    count = 0
    rows = _rows(bundle, topic, kinds)
    with parquet.ParquetWriter(target, schema, compression="zstd") as writer:
        while batch := list(islice(rows, ROWS)):
            writer.write_table(pa.Table.from_pylist(batch, schema=schema))
            count += len(batch)
    return count


def _rows(bundle: Bundle, topic: Topic, kinds: dict[str, type]) -> Iterator[dict[str, Any]]:
    for record in bundle.records(topic):
        row: dict[str, Any] = {
            "partition": record.partition,
            "offset": record.offset,
            "timestamp_ms": record.timestamp_ms,
            "key": None if record.key is None else keys.text_of(record.key),
        }
        for name, value in _document(record.value).items():
            kind = kinds.get(_column(name))
            if kind is not None:
                row[_column(name)] = _as(kind, value)
        yield row


def _kinds(bundle: Bundle, topic: Topic) -> dict[str, type]:
    """The columns: plain when every value seen is of one plain kind, else JSON text."""
    found: dict[str, set[type]] = {}
    for record in islice(bundle.records(topic), LOOKED_AT):
        for name, value in _document(record.value).items():
            found.setdefault(_column(name), set()).update([type(value)] if value is not None else [])
    kinds: dict[str, type] = {}
    for name, seen in found.items():
        if seen == {int, float}:
            kinds[name] = float
        elif len(seen) == 1 and seen <= {int, float, bool, str}:
            kinds[name] = next(iter(seen))
        else:
            kinds[name] = str
    return kinds


def _document(value: bytes | None) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        document = msgspec.json.decode(value)
    except msgspec.DecodeError:
        return {"value": value.decode("utf-8", "replace")}
    return document if isinstance(document, dict) else {"value": document}


def _column(name: str) -> str:
    """A field's column; one that is named like a record's own place is set apart."""
    return f"value_{name}" if name in PLACE else name


def _as(kind: type, value: Any) -> Any:
    if value is None or type(value) is kind:
        return value
    if kind is float and isinstance(value, int):
        return float(value)
    return msgspec.json.encode(value).decode() if kind is str else None
