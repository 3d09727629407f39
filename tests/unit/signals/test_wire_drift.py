"""The wire types are the contract's, range-checked."""

from __future__ import annotations

import msgspec

from heteroscale.contracts.telemetry import Histogram, InstanceSample
from heteroscale.signals.wire import WireHistogram, WireSample


def _shape(kind: type[msgspec.Struct]) -> dict[str, tuple[str, bool]]:
    return {field.name: (field.encode_name, field.required) for field in msgspec.structs.fields(kind)}


def test_wire_sample_has_the_fields_of_the_contract() -> None:
    """A field that the contract gains is not forgotten here."""
    assert _shape(InstanceSample) == _shape(WireSample)


def test_wire_histogram_has_the_fields_of_the_contract() -> None:
    """As above."""
    assert _shape(Histogram) == _shape(WireHistogram)
