"""Commands about specs: files in, revisions on specs.v1, what people see of them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from heteroscale.bus.log import Entry
from heteroscale.cli.log_view import LogView
from heteroscale.cli.spec_files import read_specs
from heteroscale.cli.spec_store import SpecStore
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import InstanceState, PlacementStatus
from heteroscale.contracts.spec import Mode, ServiceSpec
from heteroscale.contracts.telemetry import Tick
from heteroscale.contracts.topics import Topic, topic_name
from support import builders
from support.command_line import PREFIX, CommandLine

GOOD = Path(__file__).parents[2] / "support" / "good_spec.yaml"
TICK_MS = 1_796_083_200_000


@pytest.fixture
def line() -> CommandLine:
    """A command line on fresh topics."""
    return CommandLine()


@pytest.fixture
def spec_file(tmp_path: Path) -> Path:
    """A good spec that a test may change."""
    path = tmp_path / "chat.yaml"
    path.write_text(GOOD.read_text("utf-8"), "utf-8")
    return path


def edit(path: Path, old: str, new: str) -> str:
    """Replace text in a file that must have it."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    return str(path)


def tick(at_ms: int = TICK_MS) -> Entry:
    """A tick on partition 0."""
    return Entry(topic_name(PREFIX, Topic.TELEMETRY), None, codec.encode(Tick(at_ms=at_ms)), at_ms, partition=0)


def current(line: CommandLine) -> ServiceSpec:
    """The spec in force."""
    return asyncio.run(SpecStore(LogView(line.log, PREFIX)).get("chat-70b"))


def test_validate_says_where_and_what_to_write(line: CommandLine, spec_file: Path) -> None:
    """A bad spec is exit 2; each problem stands on its own line with file, line, field and cure."""
    edit(spec_file, "min: 4, max: 32", "min: 40, max: 32")
    result = line("validate", str(spec_file))
    assert 2 == result.exit_code
    assert f"{spec_file}:7: roles.decode.min: 40 is above max 32; write min: 32 or max: 40" in result.stderr.splitlines()


def test_validate_json(line: CommandLine, spec_file: Path) -> None:
    """With --json stdout has one document a problem, or one a good spec."""
    [good] = line.json("validate", str(spec_file))
    assert ("chat-70b", True) == (good["service"], good["valid"])

    edit(spec_file, "mode: active", "mode: activ")
    result = line("validate", str(spec_file), "--json")
    assert 2 == result.exit_code
    assert '"field":"mode"' in result.stdout


def test_validate_sees_several_documents_and_files(line: CommandLine, spec_file: Path) -> None:
    """Specs parted by --- are each checked, and two of one service are refused."""
    spec_file.write_text(spec_file.read_text("utf-8") + "\n---\n" + spec_file.read_text("utf-8"), "utf-8")
    result = line("validate", str(spec_file))
    assert 2 == result.exit_code
    assert "is the target of another spec too" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("service: [", ":1:"),
        ("a: 1\na: 2\n", ":2:1: the key 'a' is given twice"),
        ("\tservice: x", "not YAML"),
        ("", "holds no spec"),
        ("- 1\n- 2\n", "is not a mapping"),
        ("a: &x [*x]\n", "service: is missing"),
        ("until: 2026-02-30\n", "day is out of range"),
        ("a: !!python/name:os.system\n", "could not determine a constructor"),
        ("service: \x00\n", "control characters"),
    ],
)
def test_what_is_no_yaml_is_refused_with_its_place(line: CommandLine, tmp_path: Path, text: str, said: str) -> None:
    """Broken files are exit 2 with line and column."""
    path = tmp_path / "x.yaml"
    path.write_text(text, "utf-8")
    result = line("validate", str(path))
    assert 2 == result.exit_code
    assert said in result.stderr
    assert str(path) in result.stderr


def test_a_missing_file_is_bad_input(line: CommandLine) -> None:
    """A file that is not there is exit 2, not a traceback."""
    result = line("validate", "no-such.yaml")
    assert 2 == result.exit_code
    assert "no-such.yaml: No such file or directory" in result.stderr


def test_validate_reads_standard_input(line: CommandLine) -> None:
    """`-` is standard input."""
    assert 0 == line("validate", "-", stdin=GOOD.read_text("utf-8")).exit_code


def test_apply_writes_revisions(line: CommandLine, spec_file: Path) -> None:
    """The first apply is revision 1, a change the next one, no change none; the stamp is the newest tick."""
    line.put([tick()])
    [created] = line.json("apply", str(spec_file))
    assert ("created", 1, TICK_MS) == (created["action"], created["revision"], created["applied_at_ms"])

    [unchanged] = line.json("apply", str(spec_file))
    assert ("unchanged", 1) == (unchanged["action"], unchanged["revision"])

    [changed] = line.json("apply", edit(spec_file, "max: 32", "max: 40"), "--reason", "growth")
    assert ("changed", 2) == (changed["action"], changed["revision"])
    assert [{"field": "roles.decode.max", "before": 32, "after": 40}] == changed["changes"]
    assert ("growth", 2, 40) == (current(line).reason, current(line).revision, current(line).roles["decode"].max)


def test_apply_without_ticks_takes_the_clock(line: CommandLine, spec_file: Path) -> None:
    """Where nobody ticks, the wall clock stamps the revision."""
    [created] = line.json("apply", str(spec_file))
    assert created["applied_at_ms"] > 1_700_000_000_000


def test_apply_dry_run_writes_nothing(line: CommandLine, spec_file: Path) -> None:
    """--dry-run shows the change and leaves the topic alone."""
    line("apply", str(spec_file))
    result = line("apply", edit(spec_file, "max: 32", "max: 40"), "--dry-run")
    assert "would be changed" in result.stdout
    assert "roles.decode.max: 32 -> 40" in result.stdout
    assert 32 == current(line).roles["decode"].max


def test_apply_is_all_or_nothing(line: CommandLine, spec_file: Path, tmp_path: Path) -> None:
    """One bad file keeps all from being written."""
    bad = tmp_path / "bad.yaml"
    bad.write_text("service: other", "utf-8")
    assert 2 == line("apply", str(spec_file), str(bad)).exit_code
    assert [] == line.json("get")


def test_apply_refuses_an_outdated_revision(line: CommandLine, spec_file: Path) -> None:
    """A file that names an older revision than the one in force was made from something else."""
    line("apply", str(spec_file))
    line("apply", edit(spec_file, "max: 32", "max: 40"))
    result = line("apply", edit(spec_file, "service: chat-70b", "service: chat-70b\nrevision: 1"))
    assert 2 == result.exit_code
    assert "made from revision 1, and revision 2 is in force" in result.stderr


def test_another_writer_in_between_wins(line: CommandLine, spec_file: Path) -> None:
    """Two writers at once: the one whose record came first stays in force, the other is told."""
    line("apply", str(spec_file))
    theirs = current(line)

    async def race() -> None:
        view = LogView(line.log, PREFIX)

        async def between() -> None:
            await line.log.append([builders.entry(PREFIX, Topic.SPECS, "chat-70b", paused(theirs, 2))])

        [mine] = read_specs([edit(spec_file, "max: 32", "max: 40")])
        with pytest.raises(Rejected, match="another writer came between"):
            await SpecStore(view, between).apply(mine)

    asyncio.run(race())
    assert (2, Mode.PAUSED) == (current(line).revision, current(line).mode)


def paused(spec: ServiceSpec, revision: int) -> ServiceSpec:
    """What another writer would have written."""
    return codec.convert(ServiceSpec, codec.to_document(spec) | {"revision": revision, "mode": "paused"})


def test_a_changed_fleet_is_refused_while_instances_run(line: CommandLine, spec_file: Path) -> None:
    """The newest Placement says whether anything runs."""
    line("apply", str(spec_file))
    line.put([builders.placement_entry(PREFIX, builders.placement("chat-70b", builders.instance(state=InstanceState.READY)))])
    result = line("apply", edit(spec_file, "service: chat-70b", "service: chat-70b\nfleet: eu"))
    assert 2 == result.exit_code
    assert "fleet: 'eu' is not 'default', where 1 instances still run" in result.stderr


def test_get_shows_what_apply_takes(line: CommandLine, spec_file: Path) -> None:
    """`get --yaml` is a spec file that says the same; the table and --json name the service."""
    line("apply", str(spec_file))
    text = line("get", "chat-70b", "--yaml").stdout
    assert "chat-70b" == yaml.safe_load(text)["service"]
    [again] = line.json("apply", "-", stdin=text)
    assert "unchanged" == again["action"]
    assert "decode 4..32, prefill 2..16" in line("get").stdout
    assert "chat-70b" == line.json("get")[0]["service"]


def test_an_unknown_service_names_the_nearest(line: CommandLine, spec_file: Path) -> None:
    """A misspelt service is exit 2 with a hint."""
    line("apply", str(spec_file))
    for command in (
        ["get", "chat-7b"],
        ["describe", "chat-7b"],
        ["pause", "chat-7b"],
        ["specs", "history", "chat-7b"],
        ["delete", "chat-7b"],
    ):
        result = line(*command)
        assert 2 == result.exit_code, command
        assert "no service 'chat-7b'; did you mean chat-70b?" in result.stderr


def test_pause_and_resume(line: CommandLine, spec_file: Path) -> None:
    """A pause is a revision with until and then, counted from the newest tick; resume goes back to the mode before."""
    line.put([tick()])
    line("apply", str(spec_file))
    [paused] = line.json("pause", "chat-70b", "--for", "2h", "--reason", "load test")
    assert {
        "service": "chat-70b",
        "revision": 2,
        "mode": "paused",
        "until": "2026-12-01T02:00Z",
        "then": "active",
        "reason": "load test",
    } == paused

    [longer] = line.json("pause", "chat-70b", "--direction", "in", "--for", "3h")
    assert ("paused-in", "active") == (longer["mode"], longer["then"])

    [resumed] = line.json("resume", "chat-70b")
    assert ("active", None, None) == (resumed["mode"], resumed["until"], resumed["then"])
    assert 2 == line("resume", "chat-70b").exit_code


def test_a_pause_without_end_remembers_the_mode(line: CommandLine, spec_file: Path) -> None:
    """Without --for the mode before is found in the history."""
    line("apply", str(spec_file))
    line("suspend", "chat-70b")
    assert Mode.SUSPENDED == current(line).mode
    line("pause", "chat-70b")
    assert "active" == line.json("resume", "chat-70b")[0]["mode"]


def test_specs_history_diff_rollback(line: CommandLine, spec_file: Path) -> None:
    """Revisions are listed with their reasons, compared, and put in force again as new ones."""
    line("apply", str(spec_file), "--reason", "first")
    line("apply", edit(spec_file, "max: 32", "max: 40"), "--reason", "growth")

    assert ["first", "growth"] == [spec["reason"] for spec in line.json("specs", "history", "chat-70b")]
    assert "growth" in line("specs", "history", "chat-70b").stdout
    expected = [{"field": "roles.decode.max", "before": 32, "after": 40}]
    assert expected == line.json("specs", "diff", "chat-70b") == line.json("specs", "diff", "chat-70b", "1", "2")

    [rolled] = line.json("specs", "rollback", "chat-70b", "--reason", "too much")
    assert (3, "rollback to 1: too much") == (rolled["revision"], current(line).reason)
    assert 32 == current(line).roles["decode"].max
    assert "no revision 9; held are 1, 2, 3" in line("specs", "rollback", "chat-70b", "--to", "9").stderr


def test_delete_writes_a_tombstone(line: CommandLine, spec_file: Path) -> None:
    """After delete the service has no spec; applying it again goes on with the next revision."""
    line("apply", str(spec_file))
    assert "let go" in line("delete", "chat-70b").stdout
    assert [] == line.json("get")
    assert 2 == line.json("apply", str(spec_file))[0]["revision"]


def test_delete_drain_first_commands_nothing(line: CommandLine, spec_file: Path) -> None:
    """--drain puts min = max = 0 in force and waits for a converged Placement without instances."""
    line("apply", str(spec_file))
    running = builders.placement("chat-70b", builders.instance(state=InstanceState.READY))
    line.put([builders.placement_entry(PREFIX, running)])
    result = line("delete", "chat-70b", "--drain", "--timeout", "1ms")
    assert 1 == result.exit_code
    assert "1 instances still run" in result.stderr
    assert {0} == {count for role in current(line).roles.values() for count in (role.min, role.max)}

    empty = codec.convert(type(running), codec.to_document(running) | {"groups": [], "status": PlacementStatus.CONVERGED.value, "seq": 2})
    line.put([builders.placement_entry(PREFIX, empty)])
    assert 0 == line("delete", "chat-70b", "--drain").exit_code
    assert [] == line.json("get")


def test_explain_spec_tells_given_from_default(line: CommandLine, spec_file: Path) -> None:
    """Every effective value has its unit and its source."""
    fields = {field["field"]: field for field in line.json("explain-spec", str(spec_file))}
    assert ("1m", "duration", "given") == tuple(fields["window.size"][key] for key in ("value", "unit", "source"))
    assert ("15m", "duration", "default") == tuple(fields["behavior.pending.timeout"][key] for key in ("value", "unit", "source"))
    assert "tokens/s an instance of weight 1" == fields["signals[0].target"]["unit"]
    assert 0 == line("explain-spec", str(spec_file), "--only", "given").exit_code


def test_explain_spec_takes_the_slo_from_the_guards(line: CommandLine, spec_file: Path) -> None:
    """Without slo the guards' moderate thresholds are the targets of reports."""
    fields = {field["field"]: field for field in line.json("explain-spec", edit(spec_file, "slo: {ttft: 1.5s, tbt: 60ms}\n", ""))}
    assert ("60ms", "default") == (fields["slo.tbt"]["value"], fields["slo.tbt"]["source"])
    assert ("1500ms", "default") == (fields["slo.ttft"]["value"], fields["slo.ttft"]["source"])
