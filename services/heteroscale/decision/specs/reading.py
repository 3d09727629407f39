"""From an untyped document to the typed spec, without stopping at the first mistake.

Every value that cannot be read becomes a problem and is replaced by a placeholder of its type, so that the rest can still be
judged; what was judged by a placeholder is dropped (`Problem.depends_on`). Knows types, not what makes sense.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any, Final

from msgspec import inspect

from heteroscale.contracts.spec import GpuChoice, ServiceSpec
from heteroscale.contracts.units import Duration, Instant, Percent
from heteroscale.decision.specs.problems import Path, Problem, did_you_mean, nearest

DAY_MINUTES: Final = 24 * 60
_TIMES: Final = ("start", "end")
_PLACEHOLDERS: Final[dict[type, object]] = {Duration: Duration(1_000), Percent: Percent(0.5), Instant: Instant(0)}
_UNIT_EXAMPLES: Final[dict[type, str]] = {Duration: "60s", Percent: "10%", Instant: "2026-12-01T00:00Z"}
_EXAMPLES: Final = {"roles": "roles: {prefill: {min: 1, max: 8, gpus: 8}, decode: {min: 2, max: 16, gpus: 8}}",
                    "signals": "signals: [{metric: decode_tps, role: decode, target: 4200}]",
                    "service": "service: chat-70b",
                    "ratio": "ratio: {prefill: 1, decode: 2}"}  # fmt: skip


class Reading:
    """One document being read: what was wrong, which fields could not be read, which were given and how they were written."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.unread: set[Path] = set()
        self.given: dict[Path, Any] = {}

    def refuse(self, path: Path, text: str) -> None:
        """Note a value that cannot be read."""
        self.problems.append(Problem(path, text))
        self.unread.add(path)

    def value(self, kind: inspect.Type, value: Any, path: Path) -> Any:
        """`value` as `kind`, or a placeholder and a problem."""
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        self.given[path] = value
        readers: dict[type[inspect.Type], Callable[[Any, Any, Path], Any]] = {
            inspect.UnionType: self._union,
            inspect.StructType: self._struct,
            inspect.DictType: self._mapping,
            inspect.ListType: self._list,
            inspect.CustomType: self._unit,
            inspect.EnumType: self._enum,
            inspect.LiteralType: self._literal,
        }
        read: Callable[[Any, Any, Path], Any] = readers.get(type(kind), self._scalar)
        return read(kind, value, path)

    def _union(self, kind: inspect.UnionType, value: Any, path: Path) -> Any:
        if value is None and kind.includes_none:
            return None
        literals = [name for arm in kind.types if isinstance(arm, inspect.LiteralType) for name in arm.values]
        if value in literals:
            return value
        arm = next(arm for arm in kind.types if not isinstance(arm, inspect.NoneType | inspect.LiteralType))
        if value == "none" and kind.includes_none and not isinstance(arm, inspect.StrType):
            self.refuse(path, "'none' is not a value here; write null")
            return None
        if literals and not isinstance(value, dict):
            self.refuse(path, f"{shown(value)} is neither a mapping nor {literals[0]!r}; write one of the two")
            return literals[0]
        return self.value(arm, value, path)

    def _struct(self, kind: inspect.StructType, value: Any, path: Path) -> Any:
        if kind.cls is GpuChoice and isinstance(value, str):
            return GpuChoice(type=value)
        if not isinstance(value, dict):
            keys = ", ".join(f"{field.name}: …" for field in kind.fields if field.required) or f"{kind.fields[0].name}: …"
            self.refuse(path, f"{shown(value)} is not a mapping; write {{{keys}}}")
            return placeholder(kind)
        known = [field.name for field in kind.fields]
        for key in value:
            if key not in known:
                self.problems.append(Problem((*path, str(key)), f"unknown key; {_key_hint(str(key), known)}"))
        fields: dict[str, Any] = {}
        for field in kind.fields:
            at = (*path, field.name)
            if field.name in value:
                fields[field.name] = self._field(field, value[field.name], at)
            elif field.required:
                if not any(nearest(str(key), [field.name]) for key in value if key not in known):
                    self.problems.append(Problem(at, f"is missing; write {_EXAMPLES.get(field.name, _example(field.type, field.name))}"))
                self.unread.add(at)
                fields[field.name] = placeholder(field.type)
        return kind.cls(**fields)

    def _field(self, field: inspect.Field, value: Any, path: Path) -> Any:
        if value is None and not _takes_null(field.type):
            self.refuse(path, "is empty; write a value" + ("" if field.required else " or leave the key out"))
            return placeholder(field.type)
        return self.value(field.type, value, path)

    def _mapping(self, kind: inspect.DictType, value: Any, path: Path) -> Any:
        if not isinstance(value, dict):
            self.refuse(path, f"{shown(value)} is not a mapping; write {{name: …}}")
            return {}
        read: dict[str, Any] = {}
        for key, inner in value.items():
            if not isinstance(key, str):
                self.refuse((*path, str(key)), f"the name {key!r} is not text; write it in quotes")
            elif inner is None:
                self.refuse((*path, key), f"is empty; write {_example(kind.value_type, key)}")
                read[key] = placeholder(kind.value_type)
            else:
                read[key] = self.value(kind.value_type, inner, (*path, key))
        return read

    def _list(self, kind: inspect.ListType, value: Any, path: Path) -> Any:
        if not isinstance(value, list | tuple):
            self.refuse(
                path, f"{shown(value)} is not a list; write [{'…' if isinstance(value, dict | list) else shown(value, quoted=False)}]"
            )
            return []
        return [self.value(kind.item_type, inner, (*path, at)) for at, inner in enumerate(value)]

    def _enum(self, kind: inspect.EnumType, value: Any, path: Path) -> Any:
        names = [str(member.value) for member in kind.cls]
        return kind.cls(self._choice(names, value, path))

    def _literal(self, kind: inspect.LiteralType, value: Any, path: Path) -> Any:
        return self._choice([str(name) for name in kind.values], value, path)

    def _choice(self, names: Sequence[str], value: Any, path: Path) -> str:
        if isinstance(value, str) and value in names:
            return value
        close = nearest(value, names) if isinstance(value, str) else None
        hint = f"; did you mean {close}?" if close else ""
        self.refuse(path, f"{shown(value)} is not one of the choices; write one of {', '.join(names)}{hint}")
        return names[0]

    def _unit(self, kind: inspect.CustomType, value: Any, path: Path) -> Any:
        wrong = _unit_problem(kind.cls, value)
        if wrong is None:
            try:
                return kind.cls.parse(value)  # type: ignore[attr-defined]  # the three unit types, each with parse
            except (ValueError, OverflowError) as error:
                wrong = str(error)
        self.refuse(path, wrong)
        return _PLACEHOLDERS[kind.cls]

    def _scalar(self, kind: inspect.Type, value: Any, path: Path) -> Any:
        match kind:
            case inspect.IntType() if isinstance(value, int) and not isinstance(value, bool):
                return value
            case inspect.FloatType() if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
                return float(value)
            case inspect.StrType() if isinstance(value, str):
                return value
            case inspect.BoolType() if isinstance(value, bool):
                return value
            case inspect.BoolType():
                self.refuse(path, f"{shown(value)} is neither true nor false; write one of the two")
            case inspect.IntType():
                self.refuse(path, f"{shown(value)} is not a whole number; write {_whole(value)}")
            case inspect.FloatType():
                self.refuse(path, f"{shown(value)} is not a number; write {_number(value)}")
            case _ if path[-1] in _TIMES and isinstance(value, int) and not isinstance(value, bool):
                self.refuse(path, f'{value} is a time that YAML read as a number; quote it: "{clock_text(value)}"')
            case _:
                self.refuse(path, f'{shown(value)} is not text; write it in quotes: "{shown(value, quoted=False)}"')
        return placeholder(kind)


def shown(value: object, *, quoted: bool = True) -> str:
    """A value in a message, short."""
    if isinstance(value, bool):
        text = str(value).lower()
    elif isinstance(value, str):
        text = repr(value) if quoted else value
    elif isinstance(value, dict):
        text = "a mapping"
    elif isinstance(value, list):
        text = "a list"
    else:
        text = "null" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "…"


def clock_text(number: int) -> str:
    """The time of day that YAML 1.1 turned into `number` (base 60: 18:00 is 1080, with seconds 64800)."""
    minutes = number if number <= DAY_MINUTES else number // 60
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


def _unit_problem(cls: type, value: Any) -> str | None:
    """What is wrong with a value that people often write in place of a unit, with the form they meant."""
    problem = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if cls is Duration:
            problem = f"{value} has no unit; write {value}s (or {value}ms, {value}m)"
        elif cls is Percent:
            problem = f"{value} has no percent sign; write {value * 100 if value <= 1 else value:g}%"
    elif cls is Instant and isinstance(value, datetime):
        problem = None if value.tzinfo else f"{value} has no zone; write {value.isoformat()}Z"
    elif cls is Instant and isinstance(value, date):
        problem = f"{value} has no time and zone; write {value.isoformat()}T00:00Z"
    elif cls is Duration and isinstance(value, str) and value.strip().startswith("-"):
        problem = f"{value!r} is negative; write {value.strip().lstrip('-')}"
    return problem


def placeholder(kind: inspect.Type) -> Any:
    """Some value of a type, to go on with."""
    value: Any
    match kind:
        case inspect.UnionType():
            value = None if kind.includes_none else placeholder(kind.types[0])
        case inspect.StructType():
            value = kind.cls(**{field.name: placeholder(field.type) for field in kind.fields if field.required})
        case inspect.DictType():
            value = {}
        case inspect.ListType():
            value = []
        case inspect.CustomType(cls=cls):
            value = _PLACEHOLDERS[cls]
        case inspect.EnumType(cls=members):
            value = next(iter(members))
        case inspect.LiteralType(values=values):
            value = values[0]
        case inspect.StrType():
            value = "?"
        case inspect.BoolType():
            value = False
        case _:
            value = 1
    return value


@functools.cache
def keys_and_homes() -> dict[str, tuple[str, ...]]:
    """Every key of a spec and the sections it may stand in."""
    homes: dict[str, set[str]] = {}

    def walk(kind: inspect.Type, at: str) -> None:
        match kind:
            case inspect.StructType():
                for field in kind.fields:
                    homes.setdefault(field.name, set()).add(at)
                    walk(field.type, f"{at}.{field.name}" if at else field.name)
            case inspect.UnionType():
                for arm in kind.types:
                    walk(arm, at)
            case inspect.ListType():
                walk(kind.item_type, f"{at}[]")
            case inspect.DictType():
                walk(kind.value_type, f"{at}.NAME")
            case _:
                pass

    walk(inspect.type_info(ServiceSpec), "")
    return {key: tuple(sorted(places)) for key, places in sorted(homes.items())}


def _key_hint(key: str, known: Sequence[str]) -> str:
    close = nearest(key, known)
    if close is not None:
        return f"did you mean {close}?"
    homes = keys_and_homes().get(key)
    if homes:
        return f"it belongs {' or '.join('at the top' if not home else f'to {home}' for home in homes[:3])}"
    return did_you_mean(key, known)


def _takes_null(kind: inspect.Type) -> bool:
    return isinstance(kind, inspect.UnionType) and kind.includes_none


def _example(kind: inspect.Type, name: str) -> str:
    match kind:
        case inspect.CustomType(cls=cls):
            text = _UNIT_EXAMPLES[cls]
        case inspect.EnumType(cls=cls):
            text = str(next(iter(cls)).value)
        case inspect.LiteralType(values=values):
            text = f"one of {', '.join(str(value) for value in values)}"
        case inspect.IntType() | inspect.FloatType():
            text = "a number"
        case inspect.StructType():
            text = "{" + ", ".join(_example(field.type, field.name) for field in kind.fields if field.required) + "}"
        case inspect.ListType():
            text = f"[{_example(kind.item_type, '').removeprefix(': ')}]"
        case _:
            text = '"09:00"' if name in _TIMES else "…"
    return f"{name}: {text}"


def _whole(value: object) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return str(math.ceil(value))
    if isinstance(value, str) and value.strip().lstrip("+-").isdigit():
        return f"{value.strip()} without quotes"
    return "a whole number such as 2"


def _number(value: object) -> str:
    if isinstance(value, str):
        text = value.strip()
        try:
            if text.endswith("%"):
                return f"{float(text[:-1]) / 100:g}"
            return f"{float(text):g} without quotes"
        except ValueError:
            pass
    return "a number such as 0.8"


def read_document(document: object) -> tuple[ServiceSpec, Reading]:
    """The spec as far as it can be read, and what was wrong. Placeholders stand where `unread` says so."""
    reading = Reading()
    spec: ServiceSpec = reading.value(inspect.type_info(ServiceSpec), document, ())
    reading.given.pop((), None)
    return spec, reading
