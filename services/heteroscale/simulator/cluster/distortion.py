"""Telemetry that goes wrong on order: silence, garbage, and samples that come late. Between the engines and the log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from heteroscale.contracts.telemetry import InstanceSample
from heteroscale.simulator.cluster.faults import Fault, FaultKind

LATE_BY_MS: Final = 60_000


@dataclass(slots=True)
class Distortion:
    """The faults in force, and samples that are on their way late."""

    active: list[Fault] = field(default_factory=list)
    held: list[tuple[int, str, InstanceSample]] = field(default_factory=list)

    def begin(self, fault: Fault) -> None:
        """From now on."""
        self.active.append(fault)

    def heal(self, fault: Fault) -> None:
        """No longer. What is late stays late."""
        self.active.remove(fault)

    def pass_on(self, service: str, samples: Sequence[InstanceSample], now_ms: int) -> list[InstanceSample]:
        """What arrives now of these samples and of those that were held back."""
        arriving = [sample for due, owner, sample in self.held if owner == service and due <= now_ms]
        self.held = [entry for entry in self.held if entry[1] != service or entry[0] > now_ms]
        for sample in samples:
            match self._kind(service, sample.role):
                case FaultKind.SILENCE:
                    continue
                case FaultKind.GARBAGE:
                    arriving.append(garbled(sample))
                case FaultKind.LATE:
                    self.held.append((now_ms + LATE_BY_MS, service, sample))
                case _:
                    arriving.append(sample)
        return arriving

    def _kind(self, service: str, role: str) -> FaultKind | None:
        return next((fault.kind for fault in self.active if fault.name in {service, f"{service}/{role}"}), None)


def garbled(sample: InstanceSample) -> InstanceSample:
    """Counters below zero: no engine says so."""
    return msgspec.structs.replace(sample, generation_tokens=-1, prompt_tokens=-1, requests_finished=-1)
