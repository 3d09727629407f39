"""Bytes of messages: canonical, complete, and refused with the place of what is wrong."""

from __future__ import annotations

import subprocess
import sys

import pytest

from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation, ActuationKind
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.spec import RatePolicy, RoleBounds, WindowSpec
from heteroscale.contracts.telemetry import EngineState, InstanceSample, Samples, TelemetryRecord, Tick
from heteroscale.contracts.units import Duration

ACTUATION = Actuation(service="chat", fleet="default", instance="i1", at_ms=7, kind=ActuationKind.READY, actuator="dry-run")


def test_absent_is_written_as_null() -> None:
    """Absent is null, written out, never left away."""
    assert b'"detail":null' in codec.encode(ACTUATION)


def test_maps_are_encoded_in_sorted_order() -> None:
    """SAME-IN-SAME-OUT: the order in which a map was built does not reach the bytes."""
    one = Samples(service="s", layouts={"b": [1.0], "a": [2.0]}, samples=[])
    two = Samples(service="s", layouts={"a": [2.0], "b": [1.0]}, samples=[])
    assert codec.encode(one) == codec.encode(two)
    assert codec.digest(one) == codec.digest(two)


def test_bytes_do_not_depend_on_the_hash_seed() -> None:
    """SAME-IN-SAME-OUT across processes."""
    script = "from heteroscale.contracts import names; print(names.decision_id('chat-70b', 1732000320000, 3, 1))"
    outputs = {
        subprocess.run([sys.executable, "-c", script], env={"PYTHONHASHSEED": seed}, capture_output=True, check=True).stdout
        for seed in ("0", "1")
    }
    assert 1 == len(outputs)


def test_unknown_fields_of_a_newer_writer_are_ignored() -> None:
    """Old readers accept new writers."""
    payload = codec.encode(ACTUATION)[:-1] + b',"colour":"blue"}'
    assert codec.decode(Actuation, payload) == ACTUATION


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "undecodable"),
        (b"{", "undecodable"),
        (b"\xff\xfe", "undecodable"),
        (b"[]", "invalid"),
        (b"{}", "invalid"),
        (b'{"service":"s","fleet":"f","instance":"i","at_ms":"soon","kind":"ready","actuator":"a"}', "invalid"),
        (b'{"service":"s","fleet":"f","instance":"i","at_ms":1,"kind":"perhaps","actuator":"a"}', "invalid"),
    ],
)
def test_bad_payloads_are_rejected_with_a_code(payload: bytes, code: str) -> None:
    """The code tells what cannot be read from what does not fit."""
    with pytest.raises(Rejected) as caught:
        codec.decode(Actuation, payload)
    assert code == caught.value.code


def test_the_place_of_a_bad_field_is_named() -> None:
    """The message carries the path of the offending field."""
    with pytest.raises(Rejected, match=r"\$\.at_ms"):
        codec.decode(Actuation, b'{"service":"s","fleet":"f","instance":"i","at_ms":1.5,"kind":"ready","actuator":"a"}')


def test_telemetry_records_are_told_apart_by_kind() -> None:
    """One pass decodes either."""
    decoder = codec.decoder(TelemetryRecord)
    sample = InstanceSample(instance="i", role="decode", state=EngineState.SERVING, at_ms=5)
    for record in (Tick(at_ms=5), Samples(service="s", samples=[sample])):
        assert record == decoder.decode(codec.encode(record))


def test_payloads_of_dead_letters_travel_as_base64() -> None:
    """Any bytes survive, whatever they were."""
    letter = DeadLetter(
        topic="t", partition=0, offset=1, key=None, at_ms=2, stage="signals", code="invalid", message="m", payload=b"\x00\xff{"
    )
    assert b'"payload":"AP97"' in codec.encode(letter)
    assert letter == codec.decode(DeadLetter, codec.encode(letter))


def test_units_travel_as_people_write_them() -> None:
    """A spec on the log reads like the file it came from."""
    policy = RatePolicy(type="pods", value=2, period=Duration(60_000))
    assert {"type": "pods", "value": 2, "period": "1m"} == codec.to_document(policy)
    assert policy == codec.convert(RatePolicy, {"type": "pods", "value": 2, "period": "60s"})


def test_a_bad_unit_is_rejected_with_its_cure() -> None:
    """The field, the value and what to write instead."""
    with pytest.raises(Rejected, match=r"'1 minute' is not a duration.*\$\.size"):
        codec.convert(WindowSpec, {"size": "1 minute"})


def test_numbers_are_not_taken_for_text() -> None:
    """Conversion is strict: a YAML number where a count stands is fine, text is not."""
    assert RoleBounds(min=2) == codec.convert(RoleBounds, {"min": 2})
    with pytest.raises(Rejected):
        codec.convert(RoleBounds, {"min": "2"})
