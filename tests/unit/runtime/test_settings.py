"""Settings: where values come from, what is refused and how it is said, what is shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from heteroscale.contracts.errors import Rejected
from heteroscale.runtime import settings
from heteroscale.runtime.settings import BusSettings, LogFormat, ProcessSettings, RedisSettings, SecurityProtocol


def test_the_fixed_names_of_the_environment_are_read() -> None:
    """HETEROSCALE_KAFKA, _PREFIX and _REDIS are part of the contract; other fields follow their own name."""
    environ = {
        "HETEROSCALE_KAFKA": "a:9092,b:9092",
        "HETEROSCALE_PREFIX": "mine",
        "HETEROSCALE_REDIS": "redis://r:6379/1",
        "HETEROSCALE_HTTP_PORT": "9100",
        "HETEROSCALE_LOG_FORMAT": "console",
    }
    bus = settings.load(BusSettings, environ)
    assert ("a:9092,b:9092", "mine") == (bus.kafka, bus.prefix)
    assert "redis://r:6379/1" == settings.load(RedisSettings, environ).url
    process = settings.load(ProcessSettings, environ)
    assert (9100, LogFormat.CONSOLE) == (process.http_port, process.log_format)


def test_empty_is_unset_and_none_is_null() -> None:
    """Compose files pass empty variables for unset ones; `none` switches off what may be null, and nothing else."""
    assert ProcessSettings() == settings.load(ProcessSettings, {"HETEROSCALE_HTTP_PORT": " "})
    assert settings.load(ProcessSettings, {"HETEROSCALE_HTTP_PORT": "none"}).http_port is None
    with pytest.raises(Rejected, match="HETEROSCALE_DRAIN_DEADLINE_MS=none"):
        settings.load(ProcessSettings, {"HETEROSCALE_DRAIN_DEADLINE_MS": "none"})


@pytest.mark.parametrize(
    ("kind", "variable", "value", "cure"),
    [
        (BusSettings, "HETEROSCALE_KAFKA", "localhost", "write bootstrap servers, host:port"),
        (BusSettings, "HETEROSCALE_PREFIX", "a b", "letters, digits"),
        (BusSettings, "HETEROSCALE_SECURITY_PROTOCOL", "TLS", "how to talk to the brokers"),
        (BusSettings, "HETEROSCALE_REPLICATION_FACTOR", "0", "copies of each partition"),
        (RedisSettings, "HETEROSCALE_REDIS", "http://r", "redis://127.0.0.1:6379/0"),
        (ProcessSettings, "HETEROSCALE_HTTP_PORT", "70000", "any free one"),
        (ProcessSettings, "HETEROSCALE_HTTP_PORT", "many", "any free one"),
        (ProcessSettings, "HETEROSCALE_LOG_LEVEL", "loud", "debug, info, warning or error"),
    ],
)
def test_a_bad_value_is_refused_by_variable_value_and_cure(
    kind: type[BusSettings | RedisSettings | ProcessSettings], variable: str, value: str, cure: str
) -> None:
    """The message names the variable and its value, and says what to write instead."""
    with pytest.raises(Rejected) as refused:
        settings.load(kind, {variable: value})
    assert f"{variable}={value}" in str(refused.value)
    assert cure in str(refused.value)


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"HETEROSCALE_MIN_ISR": "2"}, "write HETEROSCALE_MIN_ISR=1"),
        ({"HETEROSCALE_SECURITY_PROTOCOL": "SASL_SSL", "HETEROSCALE_SASL_USERNAME": "u"}, "needs HETEROSCALE_SASL_MECHANISM"),
        (
            {"HETEROSCALE_KAFKA": "a:9092,b:99999"},
            "KAFKA=a:9092,b:99999 names a port that cannot be; write one from",
        ),
        ({"HETEROSCALE_TLS_CERT": "/x"}, "HETEROSCALE_TLS_CERT and HETEROSCALE_TLS_KEY go together"),
    ],
)
def test_fields_that_do_not_fit_together_are_refused(environ: dict[str, str], said: str) -> None:
    """Checks across fields speak of the variables too."""
    with pytest.raises(Rejected) as refused:
        settings.load(BusSettings, environ)
    assert said in str(refused.value)


@pytest.mark.parametrize("port", ["0", "99999"])
def test_a_port_that_cannot_be_is_refused(port: str) -> None:
    """Before anything is dialled."""
    with pytest.raises(Rejected, match="HETEROSCALE_REDIS names a port that cannot be"):
        settings.load(RedisSettings, {"HETEROSCALE_REDIS": f"redis://127.0.0.1:{port}/0"})


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    """A table per kind, shared values at the top, and the file's own path from HETEROSCALE_CONFIG."""
    path = tmp_path / "heteroscale.toml"
    path.write_text('prefix = "shared"\n[bus]\nkafka = "f:1"\nmin_isr = 1\n[process]\nhttp_port = 1\nlog_level = "debug"\n')
    environ = {"HETEROSCALE_CONFIG": str(path), "HETEROSCALE_HTTP_PORT": "2"}
    bus = settings.load(BusSettings, environ)
    assert ("f:1", "shared", SecurityProtocol.PLAINTEXT) == (bus.kafka, bus.prefix, bus.security_protocol)
    process = settings.load(ProcessSettings, environ)
    assert (2, "debug") == (process.http_port, process.log_level.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[bus]\nkafak = 'x'", "[bus] has no 'kafak'"),
        ("[bus]\nkafka = 7", "kafka = 7"),
        ("bus = 3", "write [bus]"),
        ("[bus", "is not TOML"),
    ],
)
def test_a_bad_file_is_refused_by_its_path(tmp_path: Path, content: str, said: str) -> None:
    """The message names the file and the key."""
    path = tmp_path / "bad.toml"
    path.write_text(content)
    with pytest.raises(Rejected) as refused:
        settings.load(BusSettings, {}, path)
    assert str(path) in str(refused.value)
    assert said in str(refused.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path that was given and cannot be read is an error, not silence."""
    with pytest.raises(Rejected, match="cannot be read"):
        settings.load(BusSettings, {}, tmp_path / "nowhere.toml")


def test_passwords_are_never_shown() -> None:
    """Neither in print nor in messages, nor inside URLs."""
    redis = RedisSettings(url="redis://user:hunter2@r:6379/0", password="hunter3")  # noqa: S106 - it is what must not be shown
    shown = str(settings.redacted(redis))
    assert "hunter" not in shown
    assert "redis://user:***@r:6379/0" in shown
    with pytest.raises(Rejected) as refused:
        settings.load(RedisSettings, {"HETEROSCALE_REDIS": "http://user:hunter2@r"})
    assert "hunter2" not in str(refused.value)
