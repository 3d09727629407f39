"""Settings of a process: frozen structs, filled from the environment and an optional TOML file, checked at start.

The only reader of the environment. A struct's field `http_port` is the variable `HETEROSCALE_HTTP_PORT`, unless its class says
otherwise in `variables`; in TOML it stands in the table named by the class's `title` (`[process]`), or at the top for all.
The environment wins over the file, the file over the default.
"""

from __future__ import annotations

import enum
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, TypeVar, get_args
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from heteroscale.bus.settings import BusSettings, SaslMechanism, SecurityProtocol
from heteroscale.contracts.errors import Rejected

__all__ = [
    "BusSettings",
    "LogFormat",
    "LogLevel",
    "ProcessSettings",
    "RedisSettings",
    "SaslMechanism",
    "SecurityProtocol",
    "Switch",
    "load",
    "redacted",
    "replaced",
    "variable_of",
]

VARIABLE_PREFIX: Final = "HETEROSCALE_"
FILE_VARIABLE: Final = "HETEROSCALE_CONFIG"
REDACTED: Final = "***"
_SECRET = re.compile(r"password|secret|token", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)([^/@:]*):([^@/]+)(?=@)")
_NULLS = frozenset({"none", "null", "off"})

S = TypeVar("S", bound=msgspec.Struct)


class Switch(enum.StrEnum):
    """On or off, as people write it (`HETEROSCALE_TICKER=off`)."""

    ON = "on"
    OFF = "off"


class LogFormat(enum.StrEnum):
    """How log lines look: one JSON document a line, or columns for people."""

    JSON = "json"
    CONSOLE = "console"


class LogLevel(enum.StrEnum):
    """The least level that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class RedisSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The inventory's address and security."""

    title: ClassVar[str] = "redis"
    variables: ClassVar[Mapping[str, str]] = {
        "url": "HETEROSCALE_REDIS",
        "username": "HETEROSCALE_REDIS_USERNAME",
        "password": "HETEROSCALE_REDIS_PASSWORD",
        "tls_ca": "HETEROSCALE_REDIS_TLS_CA",
        "tls_cert": "HETEROSCALE_REDIS_TLS_CERT",
        "tls_key": "HETEROSCALE_REDIS_TLS_KEY",
        "timeout_ms": "HETEROSCALE_REDIS_TIMEOUT_MS",
    }

    url: Annotated[
        Annotated[str, Meta(pattern=r"^(rediss?://|unix://)\S+$")] | None,
        Meta(description="its address; rediss:// for TLS", examples=["redis://127.0.0.1:6379/0"]),
    ] = None
    username: Annotated[str | None, Meta(description="ACL user", examples=["heteroscale"])] = None
    password: Annotated[str | None, Meta(description="never printed", examples=["…"])] = None
    tls_ca: Annotated[str | None, Meta(description="path of the CA bundle, PEM", examples=["/etc/redis/ca.pem"])] = None
    tls_cert: Annotated[str | None, Meta(description="path of the client certificate, PEM", examples=["/etc/redis/client.pem"])] = None
    tls_key: Annotated[str | None, Meta(description="path of the client key, PEM", examples=["/etc/redis/client.key"])] = None
    timeout_ms: Annotated[  # a script takes under a millisecond; more means that the server is away
        int, Meta(ge=50, le=60_000, description="limit of one command, ms", examples=["2000"])
    ] = 2_000

    def __post_init__(self) -> None:
        """Raises ValueError for a port that cannot be."""
        try:
            port = urlsplit(self.url or "").port
        except ValueError:
            port = 0
        if port == 0:
            raise ValueError("url names a port that cannot be; write one from 1 to 65535, such as redis://127.0.0.1:6379/0")


class ProcessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What every process has: its HTTP address, its log lines, its deadline to drain."""

    title: ClassVar[str] = "process"

    http_host: Annotated[  # loopback: metrics are nobody else's business unless somebody says so
        str, Meta(min_length=1, description="address that /healthz, /readyz and /metrics listen on", examples=["127.0.0.1"])
    ] = "127.0.0.1"
    http_port: Annotated[
        Annotated[int, Meta(ge=0, le=65_535)] | None, Meta(description="a port; 0 = any free one, none = do not listen", examples=["9100"])
    ] = 0
    log_format: Annotated[LogFormat, Meta(description="json or console", examples=["json"])] = LogFormat.JSON
    log_level: Annotated[LogLevel, Meta(description="debug, info, warning or error", examples=["info"])] = LogLevel.INFO
    drain_deadline_ms: Annotated[  # under the 30 s that orchestrators give before they kill
        int, Meta(ge=100, le=600_000, description="limit of draining after SIGTERM, ms", examples=["20000"])
    ] = 20_000


def load(kind: type[S], environ: Mapping[str, str] | None = None, toml_path: Path | str | None = None) -> S:
    """Settings of one kind. Raises Rejected (`settings`) that names the variable, its value and what to write instead."""
    variables = os.environ if environ is None else environ
    path = toml_path if toml_path is not None else variables.get(FILE_VARIABLE) or None
    document, origin = _from_file(kind, path)
    for field in msgspec.structs.fields(kind):
        variable = variable_of(kind, field.name)
        text = variables.get(variable, "")
        if text.strip():
            document[field.name] = _from_text(field.type, text.strip())
            origin[field.name] = f"{variable}={_shown(field.name, text)}"
    for field in msgspec.structs.fields(kind):
        if field.name in document:
            document[field.name] = _checked(field, document[field.name], origin[field.name])
    try:
        return msgspec.convert(document, kind, strict=False)
    except msgspec.ValidationError as error:
        raise Rejected("settings", _readable(kind, str(error)), _title(kind)) from error


def replaced(settings: S, **values: Any) -> S:
    """Settings with some values set by hand (command-line options), checked as those from the environment. Raises Rejected."""
    kind = type(settings)
    by_name = {field.name: field for field in msgspec.structs.fields(kind)}
    for name, value in values.items():
        _checked(by_name[name], value, f"--{name.replace('_', '-')}={_shown(name, value)}")
    try:
        return msgspec.structs.replace(settings, **values)
    except ValueError as error:
        raise Rejected("settings", _readable(kind, str(error)), _title(kind)) from error


def redacted(settings: msgspec.Struct) -> dict[str, Any]:
    """Settings for the screen and the log: passwords, also those inside URLs, are hidden."""
    return {name: _shown(name, value) for name, value in msgspec.to_builtins(settings).items()}


def variable_of(kind: type[msgspec.Struct], field: str) -> str:
    """The environment variable of a field."""
    named: Mapping[str, str] = getattr(kind, "variables", {})
    return named.get(field, VARIABLE_PREFIX + field.upper())


def _title(kind: type[msgspec.Struct]) -> str:
    title: str = getattr(kind, "title", kind.__name__.removesuffix("Settings").lower())
    return title


def _shown(name: str, value: Any) -> Any:
    if value is None or not isinstance(value, str):
        return value
    return REDACTED if _SECRET.search(name) else _USERINFO.sub(rf"\1:{REDACTED}", value)


def _from_file(kind: type[msgspec.Struct], path: Path | str | None) -> tuple[dict[str, Any], dict[str, str]]:
    """Values for `kind` from a TOML file, and where each one stood."""
    if path is None:
        return {}, {}
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise Rejected("settings", f"cannot be read ({error.strerror}); check {FILE_VARIABLE}", str(path)) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected("settings", f"is not TOML: {error}", str(path)) from error
    known = [field.name for field in msgspec.structs.fields(kind)]
    values = {name: content[name] for name in known if name in content and not isinstance(content[name], dict)}
    for base in reversed(kind.__mro__):  # what the struct extends has a table of its own, for all that extend it
        if issubclass(base, msgspec.Struct) and "title" in vars(base):
            values |= _table(base, content, path)
    return values, {name: f"{path}: {name} = {_shown(name, values[name])!r}" for name in values}


def _table(kind: type[msgspec.Struct], content: Mapping[str, Any], path: Path | str) -> dict[str, Any]:
    """The table of one struct. Raises Rejected for a name that it does not have."""
    title, known = _title(kind), [field.name for field in msgspec.structs.fields(kind)]
    table = content.get(title, {})
    if not isinstance(table, dict):
        raise Rejected("settings", f"{title} is to be a table; write [{title}]", str(path))
    strange = sorted(set(table) - set(known))
    if strange:
        raise Rejected("settings", f"[{title}] has no {strange[0]!r}; known are {', '.join(known)}", str(path))
    return table


def _from_text(kind: Any, text: str) -> Any:
    """`none` means null where null may stand; everything else is left to the typed conversion."""
    if text.lower() in _NULLS and type(None) in _arms(kind):
        return None
    return text


def _arms(kind: Any) -> tuple[Any, ...]:
    """The members of a union, looked for below `Annotated`."""
    inner = get_args(kind)[0] if hasattr(kind, "__metadata__") else kind
    return get_args(inner) or (inner,)


def _checked(field: msgspec.structs.FieldInfo, value: Any, where: str) -> Any:
    """One value against its field's type. Raises Rejected with the place, the value and the cure."""
    try:
        return msgspec.convert(value, field.type, strict=False)
    except msgspec.ValidationError as error:
        raise Rejected("settings", f"{_short(str(error))}; {_cure(field)}", where) from error


def _short(text: str) -> str:
    return re.sub(r"Expected `str` matching regex .*", "not of this form", text.split(" - at `", 1)[0])


def _cure(field: msgspec.structs.FieldInfo) -> str:
    for note in getattr(field.type, "__metadata__", ()):
        if isinstance(note, Meta):
            example = f", such as {note.examples[0]}" if note.examples else ""
            return f"write {note.description or 'another value'}{example}"
    members = [arm for arm in _arms(field.type) if isinstance(arm, type) and issubclass(arm, enum.Enum)]
    if members:
        return f"write one of {', '.join(str(member.value) for member in members[0])}"
    return f"write another value for {field.name}"


def _readable(kind: type[msgspec.Struct], text: str) -> str:
    """A message about several fields, with the variables' names in place of the fields'."""
    names = sorted((field.name for field in msgspec.structs.fields(kind)), key=len, reverse=True)
    message = _short(text)
    for name in names:
        message = re.sub(rf"(?<![A-Za-z0-9_]){name}(?![A-Za-z0-9_])", variable_of(kind, name), message)
    return message
