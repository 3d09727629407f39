"""Commands that look: topics, status, describe, dead-letters, doctor, run --settings."""

from __future__ import annotations

from pathlib import Path

import msgspec
import orjson
import pytest
from click.testing import CliRunner

from heteroscale.bus.log import Entry
from heteroscale.cli.main import cli
from heteroscale.contracts import codec
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.decisions import Action, Decision, Reason, RoleAfter, WindowSpan
from heteroscale.contracts.names import DecisionId
from heteroscale.contracts.placements import InstanceState
from heteroscale.contracts.signals import SignalWindow
from heteroscale.contracts.spec import Mode
from heteroscale.contracts.telemetry import Tick
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from support import builders, lawbook
from support.builders import AT_MS, entry
from support.command_line import PREFIX, CommandLine

SPEC = """
service: chat
mode: active
roles: {prefill: {min: 1, max: 8, gpus: 8}, decode: {min: 2, max: 16, gpus: 8}}
ratio: {prefill: 1, decode: 2}
signals: [{metric: decode_tps, target: 4200}]
"""
WINDOW = {
    "service": "chat",
    "start_ms": AT_MS - 60_000,
    "end_ms": AT_MS,
    "spec_revision": 1,
    "late_samples": 0,
    "inputs": {"partition": 0, "first_offset": 0, "last_offset": 1},
    "roles": {"decode": {"instances": {"loading": 0, "serving": 2, "draining": 0, "silent": 0}, "coverage": 1.0, "decode_tps": 8000.0}},
}


def decision(at_ms: int = AT_MS) -> Decision:
    """A decision that moved both roles."""
    return Decision(
        id=DecisionId("d" * 16),
        service="chat",
        fleet="default",
        at_ms=at_ms,
        window=WindowSpan(start_ms=at_ms - 60_000, end_ms=at_ms),
        spec_revision=1,
        policy_version=1,
        mode=Mode.ACTIVE,
        before={},
        stages=[],
        action=Action.SCALE_OUT,
        reason=Reason.DEMAND,
        after={"decode": RoleAfter(replicas=4), "prefill": RoleAfter(replicas=2)},
        command_id=DecisionId("d" * 16),
    )


def letter(code: str = "undecodable") -> DeadLetter:
    """A refused record."""
    name = topic_name(PREFIX, Topic.SIGNALS)
    return DeadLetter(
        topic=name, partition=3, offset=7, key="chat", at_ms=AT_MS, stage="decision", code=code, message="not JSON", payload=b"\xffoops"
    )


@pytest.fixture
def line() -> CommandLine:
    """A command line on topics where one service has run."""
    line = CommandLine()
    assert 0 == line("apply", "-", stdin=SPEC).exit_code
    window = codec.convert(SignalWindow, WINDOW)
    placed = builders.placement("chat", builders.instance("p1", state=InstanceState.READY))
    line.put(
        [
            Entry(topic_name(PREFIX, Topic.TELEMETRY), None, codec.encode(Tick(at_ms=AT_MS + 20_000)), AT_MS, partition=5),
            entry(PREFIX, Topic.SIGNALS, "chat", window),
            entry(PREFIX, Topic.DECISIONS, "chat", decision(AT_MS - 15_000), AT_MS - 15_000),
            entry(PREFIX, Topic.DECISIONS, "chat", decision()),
            entry(PREFIX, Topic.COMMANDS, "default", builders.command("chat", prefill=2)),
            builders.placement_entry(PREFIX, placed),
            entry(PREFIX, Topic.DEAD_LETTERS, "chat", letter()),
        ],
    )
    return line


def test_topics_create_is_repeatable() -> None:
    """The first create makes the catalogue, the second finds it; before, commands say how to make it."""
    line = CommandLine(topics=False)
    result = line("get")
    assert 2 == result.exit_code
    assert "heteroscale --prefix t topics create" in result.stderr
    assert len(CATALOGUE) == len(line.json("topics", "create")[0]["created"])
    assert [{"created": [], "existing": len(CATALOGUE)}] == line.json("topics", "create")


def test_garbage_hides_nothing_that_stands(line: CommandLine) -> None:
    """A record that nobody can read is passed over: spec, window, decision, placement and clock are still shown, and apply counts on."""
    for topic in (Topic.SPECS, Topic.SIGNALS, Topic.DECISIONS, Topic.PLACEMENTS):
        line.put([Entry(topic_name(PREFIX, topic), b"chat", b"garbage", AT_MS)])
    line.put([Entry(topic_name(PREFIX, Topic.TELEMETRY), None, b"garbage", AT_MS, partition=5)])
    (described,) = line.json("describe", "chat")
    assert None not in described.values()
    assert ["chat"] == [spec["service"] for spec in line.json("get")]
    assert 0 == line("apply", "-", stdin=SPEC.replace("max: 8", "max: 9").replace("max: 16", "max: 18")).exit_code
    (spec,) = line.json("get")
    assert (2, AT_MS + 20_000) == (spec["revision"], spec["applied_at_ms"])


def test_any_stamp_can_be_shown(line: CommandLine) -> None:
    """A record from beyond the calendar is listed with its plain stamp."""
    far = msgspec.structs.replace(letter(), offset=8, at_ms=2**62)
    line.put([entry(PREFIX, Topic.DEAD_LETTERS, "chat", far, AT_MS), Entry(topic_name(PREFIX, Topic.SIGNALS), b"chat", b"garbage", 2**62)])
    assert f"{2**62}ms" in line("dead-letters", "list").stdout
    assert f"{2**62}ms" in line("topics", "tail", "signals").stdout


def test_topics_describe(line: CommandLine) -> None:
    """Partitions, configuration, records and the newest stamp, for all topics or some."""
    described = {one["topic"]: one for one in line.json("topics", "describe")}
    assert {spec.name(PREFIX) for spec in CATALOGUE.values()} == set(described)
    decisions = described["t.decisions.v1"]
    assert (12, 2, AT_MS, "delete") == (
        decisions["partitions"],
        decisions["records"],
        decisions["newest_ms"],
        decisions["config"]["cleanup.policy"],
    )
    assert 1 == len(line.json("topics", "describe", "heteroscale.specs.v1"))
    assert "did you mean decisions?" in line("topics", "describe", "decision").stderr


@pytest.mark.parametrize("topic", [topic.value for topic in Topic])
def test_any_topic_can_be_tailed(line: CommandLine, topic: str) -> None:
    """Every topic is decoded, readable and as JSON."""
    assert 0 == line("topics", "tail", topic).exit_code
    for document in line.json("topics", "tail", topic):
        assert {"topic", "partition", "offset", "timestamp_ms", "key", "value"} == set(document)


def test_tail_tells_what_matters(line: CommandLine) -> None:
    """A decision's line has its id, action, reason and counts; -n and --service choose records."""
    text = line("topics", "tail", "decisions").stdout
    assert f"{'d' * 16} scale-out (demand) decode=4 prefill=2" in text
    assert 2 == len(line.json("topics", "tail", "decisions"))
    assert [AT_MS] == [one["timestamp_ms"] for one in line.json("topics", "tail", "decisions", "-n", "1")]
    assert 2 == len(line.json("topics", "tail", "decisions", "--service", "chat"))
    assert [] == line.json("topics", "tail", "decisions", "--service", "other")
    assert ["chat"] == [one["value"]["service"] for one in line.json("topics", "tail", "commands", "--service", "chat")]
    assert 1 == len(line.json("topics", "tail", "decisions", "--since", "2023-11-14T22:13:20Z"))
    assert "tick 2023-11-14T22:13:40Z" in line("topics", "tail", "telemetry").stdout


def test_tail_shows_what_is_no_json(line: CommandLine) -> None:
    """Bytes that are no message are shown as base64, not a crash."""
    line.put(
        [
            Entry(topic_name(PREFIX, Topic.COMMANDS), b"default", b"\xff\xfe", AT_MS),
            Entry(topic_name(PREFIX, Topic.SPECS), b"x", None, AT_MS),
        ]
    )
    assert {"base64": "//4="} in [one["value"] for one in line.json("topics", "tail", "commands")]
    assert "(tombstone)" in line("topics", "tail", "specs").stdout


def test_status(line: CommandLine) -> None:
    """One line a service: commanded, ready, serving, the last decision, the placement, how far behind the ticks."""
    [document] = line.json("status")
    assert {"desired": 4, "ready": 0, "serving": 2} == document["roles"]["decode"]
    assert {"desired": 2, "ready": 1, "serving": None} == document["roles"]["prefill"]
    assert ("scale-out", "demand", "progressing", 20_000) == (
        document["decision"]["action"],
        document["decision"]["reason"],
        document["placement"]["status"],
        document["behind_ms"],
    )
    text = line("status").stdout
    assert "decode 4 prefill 2" in text
    assert "20s" in text


def test_status_without_services() -> None:
    """An empty log is said, not an error."""
    result = CommandLine()("status")
    assert 0 == result.exit_code
    assert "heteroscale apply" in result.stderr


def test_describe(line: CommandLine) -> None:
    """Spec, newest window, decision and placement of one service."""
    text = line("describe", "chat").stdout
    assert "scale-out (demand), decode 4, prefill 2" in text
    assert "placement at 2023-11-14T22:13:20Z: progressing" in text
    [document] = line.json("describe", "chat")
    assert (AT_MS, "d" * 16) == (document["window"]["end_ms"], document["decision"]["id"])


def test_apply_dry_run_says_what_would_be_decided(line: CommandLine) -> None:
    """The newest window under the new spec: 8000 tokens/s at 1000 an instance ask for more than the two that serve."""
    before = line.json("topics", "describe", "decisions", "specs")
    lower = SPEC.replace("target: 4200", "target: 1000")
    [document] = line.json("apply", "-", "--dry-run", stdin=lower)
    assert "chat" == document["would_decide"]["service"]
    assert 2 == document["would_decide"]["spec_revision"]
    assert "would decide now: " in line("apply", "-", "--dry-run", stdin=lower).stdout
    assert before == line.json("topics", "describe", "decisions", "specs")


def test_dead_letters(line: CommandLine) -> None:
    """They are listed, filtered, shown whole, and put back where they came from."""
    [listed] = line.json("dead-letters", "list")
    assert ("undecodable", 0, 3, 7) == (listed["code"], listed["number"], listed["partition"], listed["offset"])
    assert [] == line.json("dead-letters", "list", "--code", "invalid")
    assert "\\xffoops" in line("dead-letters", "show", "0").stdout
    assert [{"number": 0, "record": "t.signals.v1-3", "offset": 0}] == line.json("dead-letters", "retry", "0")
    assert "no dead letter 9" in line("dead-letters", "show", "9").stderr


def test_doctor_names_cures(line: CommandLine) -> None:
    """Everything there: exit 0, with notes; no topics: exit 1 and the command that makes them."""
    result = CommandLine(topics=False)("doctor")
    assert 1 == result.exit_code
    assert "heteroscale --prefix t topics create" in result.stdout
    result = line("doctor", "--redis", "redis://127.0.0.1:1/0")
    assert 1 == result.exit_code
    assert "fail  redis: redis://127.0.0.1:1/0 does not answer" in result.stdout
    assert "dead letters: 1" in result.stdout
    assert "laid out as they should be" in result.stdout


def test_doctor_says_whose_engines_are_not_heard() -> None:
    """A spec alone is no loop: its service is named until a window has an instance of it."""
    line = CommandLine()
    line.put([Entry("t.specs.v1", b"chat", codec.encode(lawbook.spec()), AT_MS)])
    assert "note  engines: no window has telemetry of chat" in line("doctor").stdout
    assert "the first window closes 1m after its telemetry begins" in line("why", "chat").stdout
    window = codec.encode(lawbook.window(0, decode=4, load=4.0))
    line.put([Entry("t.signals.v1", b"chat", window, AT_MS)])
    assert "ok    engines: each service with a spec has telemetry" in line("doctor").stdout


def test_doctor_says_that_a_tick_is_ahead() -> None:
    """A tick of the next century is a clock that is wrong, not a fresh one."""
    line = CommandLine()
    at_ms = 4_102_444_800_000
    line.put([Entry("t.telemetry.v1", None, codec.encode(Tick(at_ms=at_ms)), at_ms, 0)])
    assert "ahead of this machine's clock" in line("doctor").stdout


def test_nearer_options_win() -> None:
    """An option of the command wins over the same one before it, and both over the environment."""
    line = CommandLine()
    assert "t2.telemetry.v1" in line("--prefix", "t2", "topics", "describe", "telemetry").stdout
    assert "t3.telemetry.v1" in line("--prefix", "t2", "topics", "describe", "telemetry", "--prefix", "t3").stdout


def test_the_prefix_may_come_from_environment_or_file(tmp_path: Path) -> None:
    """An option wins over the environment, the environment over the file, the file over the default."""
    config = tmp_path / "heteroscale.toml"
    config.write_text('[bus]\nprefix = "filed"\n', "utf-8")

    def prefix(*options: str, environ: dict[str, str | None]) -> str:
        none = {"HETEROSCALE_PREFIX": None, "HETEROSCALE_KAFKA": "127.0.0.1:9", "HETEROSCALE_CONFIG": None}
        result = CliRunner(env=none | environ).invoke(cli, [*options, "run", "actuator", "--settings"])
        [bus] = [document["bus"] for line in result.stdout.splitlines() if "bus" in (document := orjson.loads(line))]
        return str(bus["prefix"])

    assert "heteroscale" == prefix(environ={})
    assert "filed" == prefix(environ={"HETEROSCALE_CONFIG": str(config)})
    assert "set" == prefix(environ={"HETEROSCALE_CONFIG": str(config), "HETEROSCALE_PREFIX": "set"})
    assert "given" == prefix("--prefix", "given", environ={"HETEROSCALE_CONFIG": str(config), "HETEROSCALE_PREFIX": "set"})


@pytest.mark.parametrize("service", ["placement", "actuator", "actuation", "decision", "signals"])
def test_run_prints_its_settings(line: CommandLine, service: str) -> None:
    """`run --settings` shows what would be used, passwords hidden, and ends."""
    result = line("run", service, "--settings", "--kafka", "127.0.0.1:9", "--redis", "redis://user:hunter2@127.0.0.1:9/0")
    assert 0 == result.exit_code, result.stderr
    assert '"kafka":"127.0.0.1:9"' in result.stdout
    assert "hunter2" not in result.stdout


def test_the_ticker_may_be_given_to_whoever_ticks(line: CommandLine) -> None:
    """By an option as by the environment; to a service that does not tick it is bad input."""
    for service in ("signals", "all"):
        shown = line("run", service, "--ticker", "off", "--settings", "--kafka", "127.0.0.1:9").stdout
        assert '"ticker":"off"' in shown
    refused = line("run", "decision", "--ticker", "off", "--settings", "--kafka", "127.0.0.1:9")
    assert 2 == refused.exit_code
    assert "decision does not tick" in refused.stderr


def test_the_file_s_redis_is_the_placement_service_s_too(line: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """User, password and certificates of `[redis]` are for every process; `[placement]` may say otherwise."""
    config = tmp_path / "heteroscale.toml"
    config.write_text('[redis]\nurl = "rediss://a:1/0"\nusername = "shared"\npassword = "p"\n[placement]\nusername = "own"\n', "utf-8")
    monkeypatch.setenv("HETEROSCALE_CONFIG", str(config))
    shown = line("run", "placement", "--settings", "--kafka", "127.0.0.1:9").stdout.splitlines()
    placement = next(orjson.loads(text)["placement"] for text in shown if "placement" in orjson.loads(text))
    assert ("rediss://a:1/0", "own", "***") == (placement["url"], placement["username"], placement["password"])
