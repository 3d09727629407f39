"""The files under examples/ do what their first lines say: a newcomer's first afternoon starts with them."""

from __future__ import annotations

from pathlib import Path

from support.command_line import CommandLine

EXAMPLES = Path(__file__).parents[3] / "examples"


def test_spec_and_fleet_can_be_put_in_force() -> None:
    """As they are, without a complaint beyond the note on shadow mode."""
    line = CommandLine()
    assert [12] == [one["created"] for one in line.json("fleet", "import", str(EXAMPLES / "fleet.yaml"))]
    assert 0 == line("validate", str(EXAMPLES / "chat.yaml")).exit_code
    assert 0 == line("apply", str(EXAMPLES / "chat.yaml")).exit_code
    assert ["chat"] == [spec["service"] for spec in line.json("get")]


def test_requests_are_placed_on_the_fleet() -> None:
    """Two prefill and four decode, under one leaf as they prefer."""
    (answer,) = CommandLine().json("plan", str(EXAMPLES / "fleet.yaml"), str(EXAMPLES / "requests.yaml"))
    (group,) = answer["groups"]
    assert ("placed", 6, "a1") == (answer["status"], len(group["instances"]), group["domain"]["s1"])
