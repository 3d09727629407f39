"""`heteroscale decisions tail|show` and `heteroscale why`, over what a run of the law left on the topics."""

from __future__ import annotations

import json

import pytest

from heteroscale.bus.log import Entry
from heteroscale.contracts import codec
from heteroscale.contracts.topics import Topic, topic_name
from support import lawbook
from support.command_line import PREFIX, CommandLine
from support.lawbook import Run


@pytest.fixture
def run() -> Run:
    """A service that has scaled out once."""
    run = Run(lawbook.spec())
    for load in (4.0, 4.0, 8.0):
        run.window(decode=4, load=load)
    return run


@pytest.fixture
def line(run: Run) -> CommandLine:
    """A command line on its topics."""
    line = CommandLine()
    key = run.spec.service.encode()
    entries = [Entry(topic_name(PREFIX, Topic.SPECS), key, codec.encode(run.spec), lawbook.START_MS)]
    entries += [Entry(topic_name(PREFIX, Topic.DECISIONS), key, codec.encode(made), made.at_ms) for made in run.decisions]
    entries += [Entry(topic_name(PREFIX, Topic.DECISION_STATE), key, codec.encode(one), lawbook.START_MS) for one in run.records[1:]]
    line.put(entries)
    return line


def test_tail_lists_the_newest_and_leaves_out_holds(line: CommandLine, run: Run) -> None:
    """The past in order of time; with `--moves` only what moved."""
    assert [made.id for made in run.decisions] == [one["id"] for one in line.json("decisions", "tail", "--no-follow")]
    assert [run.decisions[2].id] == [one["id"] for one in line.json("decisions", "tail", "--no-follow", "--moves", "-s", "chat")]


def test_show_has_every_stage_before_and_after(line: CommandLine, run: Run) -> None:
    """The whole decision, by its id or the beginning of it."""
    made = run.decisions[2]
    whole = line.json("decisions", "show", made.id)[0]
    del whole["state_changes"]
    assert codec.to_document(made) == whole
    shown = line("decisions", "show", made.id[:8]).stdout
    assert "scale-out (demand): decode 4 → 8, prefill 2 → 4" in shown
    assert 10 == sum(shown.count(f"\n{stage.stage.value} ") for stage in made.stages)


def test_show_tells_what_changed_in_the_state(line: CommandLine, run: Run) -> None:
    """Field by field, from the state before to the state after; said plainly where the log has forgotten it."""
    changes = {
        one["field"]: (one["before"], one["after"]) for one in line.json("decisions", "show", run.decisions[2].id)[0]["state_changes"]
    }
    assert (4, 8) == changes["roles.decode.commanded"]
    assert (None, run.decisions[2].at_ms) == changes["tracks.decode.last_out_ms"]
    assert "adopted_at_ms" not in changes
    assert "state roles.decode.commanded: 4 -> 8" in line("decisions", "show", run.decisions[2].id).stdout
    forgotten = run.decisions[1].id  # the state before it is not there
    assert None is line.json("decisions", "show", forgotten)[0]["state_changes"]
    assert "no longer on decision-state.v1" in line("decisions", "show", forgotten).stdout


def test_show_of_an_unknown_id_says_where_to_look(line: CommandLine) -> None:
    """One clear line, exit 2."""
    result = line("decisions", "show", "feedfeed")
    assert 2 == result.exit_code
    assert "decisions tail" in result.stderr


def test_why_says_what_and_what_next(line: CommandLine) -> None:
    """The latest action in a sentence, then what would change it."""
    said = line("why", "chat").stdout
    assert "chat scaled out to 8 decode, 4 prefill (demand" in said
    assert "Next: decode_tps of decode above 8,400 scales out" in said
    assert 2 == line("why", "nobody").exit_code


def test_json_of_why_is_one_document(line: CommandLine, run: Run) -> None:
    """For machines: the decision that it speaks of."""
    said = json.loads(line("why", "chat", "--json").stdout)
    assert run.decisions[2].id == said["decision"]
