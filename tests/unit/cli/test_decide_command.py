"""`heteroscale decide`: bare and topic lines, placements among them, bad input, the table for people."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner, Result

from heteroscale.cli.commands.decide import decide
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from support import lawbook


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A spec and ten windows: 4 instances under a load of 4, then of 8."""
    spec = {name: value for name, value in lawbook.PLAIN.items() if name not in {"revision", "applied_at_ms"}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(spec))
    lines = [codec.encode(lawbook.window(at, decode=4, load=4.0 if at < 3 else 8.0)).decode() for at in range(10)]
    (tmp_path / "bare.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def call(*arguments: object) -> Result:
    """The command in this process."""
    return CliRunner().invoke(decide, [str(argument) for argument in arguments], catch_exceptions=True)


def documents(result: Result) -> list[dict[str, Any]]:
    """What `--json` printed."""
    assert 0 == result.exit_code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_one_decision_a_window(files: Path) -> None:
    """A line each, in order; the first is no cold start; each command is taken as carried out."""
    made = documents(call(files / "spec.yaml", files / "bare.jsonl", "--json"))
    assert 10 == len(made)
    assert ("hold", "steady") == (made[0]["action"], made[0]["reason"])
    assert [("scale-out", 8)] == [(one["action"], one["after"]["decode"]["replicas"]) for one in made if one["action"] != "hold"]
    assert {"decode": 4, "prefill": 2} == {role: found["replicas"] for role, found in made[0]["before"].items()}


def test_topic_lines_with_and_without_prefix_are_the_same(files: Path) -> None:
    """Bare windows, `signals.v1` and `anything.signals.v1` may be mixed; other topics are passed over."""
    lines = (files / "bare.jsonl").read_text().splitlines()
    topics = ["signals.v1", "prod.signals.v1", "heteroscale.signals.v1"]
    wrapped = [line if at % 4 == 3 else json.dumps({"topic": topics[at % 3], "value": json.loads(line)}) for at, line in enumerate(lines)]
    wrapped.insert(2, json.dumps({"topic": "telemetry.v1", "value": {"kind": "tick", "at_ms": 1}}))
    (files / "mixed.jsonl").write_text("\n".join(wrapped))
    bare, mixed = (call(files / "spec.yaml", files / name, "--json").stdout for name in ("bare.jsonl", "mixed.jsonl"))
    assert bare == mixed


def test_cold_start_holds_the_first_full_window(files: Path) -> None:
    """With `--cold-start` the first window adopts and holds."""
    made = documents(call(files / "spec.yaml", files / "bare.jsonl", "--json", "--cold-start"))
    assert ["cold_start"] * 4 == [one["reason"] for one in made[:4]]
    assert "cold_start" != made[4]["reason"]


def test_placements_limit_capacity(files: Path) -> None:
    """A Placement that is short of the revision just commanded holds the next raise."""
    lines = [codec.encode(lawbook.window(at, decode=4, load=load)).decode() for at, load in enumerate([4.0, 4.0, 4.0, 6.0, 8.0])]
    short = lawbook.placement(1, seq=1, counts={"decode": {"ready": 4}, "prefill": {"ready": 2}}, shortfall={"decode": 2, "prefill": 1})
    lines.insert(4, json.dumps({"topic": "placements.v1", "value": codec.to_document(short)}))
    (files / "short.jsonl").write_text("\n".join(lines))
    made = documents(call(files / "spec.yaml", files / "short.jsonl", "--json"))
    assert ("hold", "capacity_limited") == (made[-1]["action"], made[-1]["reason"])


def test_places_on_the_log_become_inputs(files: Path) -> None:
    """Lines that say their partition and offset give decisions with the next offset of each; others have none."""
    lines = [json.loads(line) for line in (files / "bare.jsonl").read_text().splitlines()]
    placed = [{"topic": "p.signals.v1", "partition": 3, "offset": 7 + at, "value": line} for at, line in enumerate(lines)]
    (files / "placed.jsonl").write_text("\n".join(json.dumps(line) for line in placed))
    made = documents(call(files / "spec.yaml", files / "placed.jsonl", "--json"))
    assert [{"p.signals.v1-3": 8 + at} for at in range(10)] == [one["inputs"] for one in made]
    assert {} == documents(call(files / "spec.yaml", files / "bare.jsonl", "--json"))[0]["inputs"]


def test_a_spec_among_the_events_is_read_like_a_file(files: Path) -> None:
    """A signal's role may be left out, windows of the revision before are not judged, and nonsense is refused with its line."""
    plain = {name: value for name, value in lawbook.PLAIN.items() if name != "applied_at_ms"}
    changed = plain | {"revision": 2, "signals": [{"metric": "decode_tps", "target": 500}]}
    windows = [lawbook.window(at, decode=4, load=4.0, spec_revision=revision) for at, revision in enumerate((1, 1, 2))]
    lines = [codec.encode(window).decode() for window in windows]
    lines.insert(1, json.dumps({"topic": "specs.v1", "value": changed}))
    (files / "changed.jsonl").write_text("\n".join(lines))
    made = documents(call(files / "spec.yaml", files / "changed.jsonl", "--json"))
    assert ["steady", "spec_changed", "demand"] == [one["reason"] for one in made]
    assert 8 == made[-1]["after"]["decode"]["replicas"]
    lines[1] = json.dumps({"topic": "specs.v1", "value": changed | {"ratio": {"prefill": 0, "decode": 1}}})
    (files / "changed.jsonl").write_text("\n".join(lines))
    error = call(files / "spec.yaml", files / "changed.jsonl", "--json").exception
    assert isinstance(error, Rejected)
    assert "ratio.prefill" in str(error)
    assert f"{files / 'changed.jsonl'}:2" in str(error)


@pytest.mark.parametrize(
    ("line", "code"),
    [("{oops", "undecodable"), ('{"service": 3}', "invalid"), ('{"topic": "nope", "value": {}}', "unknown_topic")],
)
def test_bad_lines_are_named(files: Path, line: str, code: str) -> None:
    """Bad input is refused with FILE:LINE and a code."""
    (files / "bad.jsonl").write_text((files / "bare.jsonl").read_text() + line + "\n")
    error = call(files / "spec.yaml", files / "bad.jsonl", "--json").exception
    assert isinstance(error, Rejected)
    assert (code, f"{files / 'bad.jsonl'}:11") == (error.code, error.place)


def test_stage_table_for_people(files: Path) -> None:
    """Without `--json`: each stage with its value before and after."""
    shown = call(files / "spec.yaml", files / "bare.jsonl").stdout
    assert "raw        4 → 8   2 → 4    demand" in shown
