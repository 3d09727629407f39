"""Telemetry written tersely, and the core run over it, for tests of the windows' rules. Times are seconds after ORIGIN_S."""

from __future__ import annotations

import json
from typing import Any

from heteroscale.contracts import codec
from heteroscale.contracts.signals import RoleSignal, SignalWindow
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.signals.aggregator import PartitionAggregator, Refused

ORIGIN_S = 1_732_000_020  # a multiple of 60 s
Document = dict[str, Any]


def ms(second: float) -> int:
    """The instant `second` seconds after the origin."""
    return round((ORIGIN_S + second) * 1_000)


def sample(instance: str, at_s: float, **fields: Any) -> Document:
    """A serving decode instance."""
    return {"instance": instance, "role": "decode", "state": "serving", "at_ms": ms(at_s)} | fields


def record(*samples: Document, service: str = "chat", **fields: Any) -> Document:
    """A samples record."""
    return {"kind": "samples", "service": service, "source": "test", "samples": list(samples)} | fields


def tick(at_s: float) -> Document:
    """A tick."""
    return {"kind": "tick", "at_ms": ms(at_s)}


def steady(instance: str, from_s: int, to_s: int, tps: float, *, every_s: int = 5, **fields: Any) -> list[Document]:
    """Records of one instance that generates `tps` tokens a second, from a counter of 1000 on."""
    return [record(sample(instance, at, generation_tokens=1_000 + tps * at, **fields)) for at in range(from_s, to_s + 1, every_s)]


def in_time_order(*streams: list[Document]) -> list[Document]:
    """Streams merged by time; a record before the tick of the same instant."""

    def when(document: Document) -> tuple[int, bool]:
        return (document["at_ms"], True) if document["kind"] == "tick" else (document["samples"][0]["at_ms"], False)

    return sorted((document for stream in streams for document in stream), key=when)


def ticks(from_s: int, to_s: int) -> list[Document]:
    """A tick a second."""
    return [tick(at) for at in range(from_s, to_s + 1)]


def spec(service: str = "chat", revision: int = 1, applied_s: float = 0, **window: str) -> ServiceSpec:
    """A spec with a prefill and a decode role and these window parameters."""
    role = {"min": 1, "max": 4, "gpus": 8, "gpu_types": [{"type": "H20"}]}
    document = {
        "service": service,
        "roles": {"prefill": role, "decode": role},
        "ratio": {"prefill": 1, "decode": 1},
        "signals": [{"metric": "decode_tps", "role": "decode", "target": 100}],
        "window": window,
        "revision": revision,
        "applied_at_ms": ms(applied_s),
    }
    return codec.convert(ServiceSpec, document)


class Run:
    """The core over documents (or raw bytes), and what came of it."""

    def __init__(self, *specs: ServiceSpec, newest: dict[str, int] | None = None) -> None:
        self.core = PartitionAggregator(0, newest)
        for each in specs:
            self.core.learn(each.service, each, 0)
        self.windows: list[SignalWindow] = []
        self.refused: list[Refused] = []
        self.offset = 0

    def feed(self, *documents: Document | bytes) -> Run:
        """Take documents in, at the next offsets."""
        for document in documents:
            payload = document if isinstance(document, bytes) else json.dumps(document).encode()
            outcome = self.core.handle(self.offset, payload)
            self.offset += 1
            self.windows += outcome.windows
            self.refused += outcome.refused
        return self

    def ends_s(self, service: str = "chat") -> list[float]:
        """The ends of a service's windows, in seconds after the origin."""
        return [window.end_ms / 1_000 - ORIGIN_S for window in self.windows if window.service == service]

    def window(self, end_s: float, service: str = "chat") -> SignalWindow:
        """The one window of a service that ends there."""
        (found,) = [window for window in self.windows if window.end_ms == ms(end_s) and window.service == service]
        return found

    def role(self, end_s: float, role: str = "decode", service: str = "chat") -> RoleSignal:
        """One role of a window."""
        return self.window(end_s, service).roles[role]
