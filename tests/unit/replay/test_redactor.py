"""Redaction of single records: consistent, in order, and nothing else is touched."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator

import pytest

from heteroscale.bus.log import Record
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.replay import redact
from heteroscale.replay.redact import Redactor


def record(topic: Topic, value: object, key: bytes = b"chat") -> Record:
    """A record of a topic."""
    return Record(f"p.{topic.value}", 0, 0, 0, key, json.dumps(value, separators=(",", ":")).encode())


async def test_pseudonyms_keep_the_order_of_names() -> None:
    """What sorted before sorts before: plans break ties on names."""

    async def records() -> AsyncIterator[Record]:
        yield record(
            Topic.TELEMETRY, {"kind": "samples", "samples": [{"instance": "i-9", "node": "b1"}, {"instance": "i-10", "node": "a7"}]}
        )
        yield record(Topic.FLEET, {"node": "c3"}, b"default/c3")

    names = await redact.collect(records(), ["node", "instance"])
    assert {"a7": "node-0001", "b1": "node-0002", "c3": "node-0003", "i-10": "instance-0001", "i-9": "instance-0002"} == names


def test_names_go_from_keys_texts_and_dead_letters() -> None:
    """Also inside sentences, map keys and base64; ids that happen to hold the letters stay."""
    redactor = Redactor([], {"srv77": "node-0001", "ab": "node-0002"})
    value = {
        "nodes": {"srv77": 8},
        "text": "lost srv77, then ab",
        "id": "abababababababab",
        "source": "agent-srv77",
        "payload": base64.b64encode(b'{"node":"srv77"}').decode(),
    }
    done = redactor.record(Topic.DEAD_LETTERS, record(Topic.DEAD_LETTERS, value, b"default/srv77"))
    found = json.loads(done.value or b"")
    assert (b"default/node-0001", {"node-0001": 8}, "lost node-0001, then node-0002") == (done.key, found["nodes"], found["text"])
    assert ("abababababababab", "agent-node-0001") == (found["id"], found["source"])
    assert b'{"node":"node-0001"}' == base64.b64decode(found["payload"])


def test_fields_are_taken_out_where_they_belong() -> None:
    """An actuator's words go; a field of that name on another topic stays, and an untouched record keeps its bytes."""
    redactor = Redactor(["detail"], {})
    said = redactor.record(Topic.ACTUATIONS, record(Topic.ACTUATIONS, {"detail": "on host 10.0.0.7", "kind": "ready"}))
    assert {"detail": "redacted", "kind": "ready"} == json.loads(said.value or b"")
    other = record(Topic.DECISIONS, {"stages": [{"detail": "demand"}]})
    assert other is redactor.record(Topic.DECISIONS, other) or other == redactor.record(Topic.DECISIONS, other)


def test_unknown_fields_are_refused() -> None:
    """A misspelt field would leave what was to be taken out."""
    with pytest.raises(Rejected, match=r"there are actuator \(actuations.v1\), applied_by \(specs.v1\), detail"):
        redact.check_fields(["detials"])


def test_what_may_be_redacted_is_said_by_the_messages() -> None:
    """No list beside them: every marked field is known with its topics, and names are found at their marks, keys of mappings too."""
    assert ["actuations.v1"] == redact.fields()["detail"]
    assert ["specs.v1"] == redact.fields()["applied_by"]
    found: dict[str, set[str]] = {"node": set(), "instance": set()}
    placed = {"groups": [{"instances": [{"id": "i-1", "nodes": {"n-1": 8}}]}], "changes": [{"instance": "i-2", "to": "ready"}]}
    redact.gather(Topic.PLACEMENTS, json.dumps(placed).encode(), found)
    assert {"node": {"n-1"}, "instance": {"i-1", "i-2"}} == found


def test_a_refused_payload_is_looked_into_or_kept_back() -> None:
    """Names in a refused sample are names; bytes that are no JSON may hold names that nobody can tell, and do not leave the house."""
    refused = {"topic": "p.telemetry.v1", "payload": base64.b64encode(b'{"samples":[{"instance":"pod-7","node":"srv9"}]}').decode()}
    found: dict[str, set[str]] = {"node": set(), "instance": set()}
    redact.gather(Topic.DEAD_LETTERS, json.dumps(refused).encode(), found)
    assert {"node": {"srv9"}, "instance": {"pod-7"}} == found
    broken = record(Topic.DEAD_LETTERS, {"payload": base64.b64encode(b"{secret-host").decode()})
    done = Redactor([], {"srv9": "node-0001"}).record(Topic.DEAD_LETTERS, broken)
    assert b"redacted" == base64.b64decode(json.loads(done.value or b"")["payload"])


def test_a_node_that_is_called_like_a_word_of_the_messages() -> None:
    """It is renamed where nodes are named, and the word stays what it was everywhere else; so does the service of that name."""
    redactor = Redactor([], {"ready": "node-0001", "chat": "node-0002"}, {"chat"})
    value = {"service": "chat", "groups": [{"instances": [{"id": "i", "nodes": {"ready": 8, "chat": 8}, "state": "ready"}]}]}
    found = json.loads(redactor.record(Topic.PLACEMENTS, record(Topic.PLACEMENTS, value)).value or b"")
    [instance] = found["groups"][0]["instances"]
    assert ("chat", {"node-0001": 8, "node-0002": 8}, "ready") == (found["service"], instance["nodes"], instance["state"])
