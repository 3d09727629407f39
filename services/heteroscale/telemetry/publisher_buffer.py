"""What a publisher holds until the log has it: encoded samples, bounded in bytes, the oldest dropped first. Pure.

A sample is encoded when it is put in, so the bound is exact and what the engine does with its own objects afterwards does not
matter. Dropping loses nothing for good: counters are cumulative, the next sample says all that the lost ones would have said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from heteroscale.contracts import codec
from heteroscale.contracts.message import Message
from heteroscale.contracts.telemetry import InstanceSample

Layouts = Mapping[str, Sequence[float]]

ENTRY_OVERHEAD_BYTES: Final = 160  # the entry, its deque slot and the header of its bytes, generously
NO_LAYOUTS: Final[Layouts] = {}


class Held(NamedTuple):
    """One encoded sample, the service it belongs to and the bucket edges it refers to (encoded; equal ones compare equal)."""

    service: str
    layouts: bytes
    at_ms: int
    sample: bytes

    @property
    def size(self) -> int:
        """Bytes that it is counted with."""
        return len(self.sample) + ENTRY_OVERHEAD_BYTES


class Batch(NamedTuple):
    """One telemetry.v1 record: the samples of one service with one set of layouts."""

    service: str
    at_ms: int
    samples: int
    value: bytes


class _RawSamples(Message, frozen=True, kw_only=True, tag_field="kind", tag="samples"):
    """`Samples`, with its parts already encoded."""

    service: str
    source: str
    layouts: msgspec.Raw
    samples: list[msgspec.Raw]


class Buffer:
    """Samples in order of arrival. Not thread-safe: whoever shares it brings a lock."""

    def __init__(self, source: str, *, bytes_max: int, batch_samples_max: int, batch_bytes_max: int) -> None:
        self._source = source
        self._bytes_max = bytes_max
        self._batch_samples_max = batch_samples_max
        self._batch_bytes_max = batch_bytes_max
        self._held: deque[Held] = deque()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._held)

    def put(self, held: Held) -> int:
        """Keep a sample; how many were dropped for it, oldest first (itself, if it is larger than the whole bound)."""
        self._held.append(held)
        self.bytes += held.size
        dropped = 0
        while self.bytes > self._bytes_max:
            self.bytes -= self._held.popleft().size
            dropped += 1
        return dropped

    def take(self) -> Batch | None:
        """Remove the oldest samples that fit one record, those of other services and layouts staying in order; null if empty."""
        if not self._held:
            return None
        first = self._held[0]
        chosen: list[Held] = []
        passed: list[Held] = []
        size = 0
        while self._held and len(chosen) < self._batch_samples_max and len(passed) < self._batch_samples_max:
            held = self._held[0]
            if (held.service, held.layouts) != (first.service, first.layouts):
                passed.append(self._held.popleft())
                continue
            if chosen and size + held.size > self._batch_bytes_max:
                break
            size += held.size
            chosen.append(self._held.popleft())
        self._held.extendleft(reversed(passed))
        self.bytes -= size
        record = _RawSamples(
            service=first.service,
            source=self._source,
            layouts=msgspec.Raw(first.layouts),
            samples=[msgspec.Raw(held.sample) for held in chosen],
        )
        return Batch(first.service, max(held.at_ms for held in chosen), len(chosen), codec.encode(record))


def hold(service: str, sample: InstanceSample, layouts: bytes) -> Held:
    """Encode a sample. Raises TypeError or ValueError for what JSON cannot say."""
    return Held(service, layouts, sample.at_ms, codec.encode(sample))


def encode_layouts(layouts: Layouts) -> bytes:
    """Canonical bytes of bucket edges (seconds), by layout name."""
    return msgspec.json.encode({name: [float(edge) for edge in edges] for name, edges in layouts.items()}, order="deterministic")
