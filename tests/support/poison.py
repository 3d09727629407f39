"""Records that make no sense, for every topic that a service reads: foreign bytes, wrong shapes, and figures that cannot be."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from heteroscale.contracts.topics import Topic

BYTES = (b"garbage", b"\xff\xfe\x00", b"[]", b"{}", b"")


class Poison(NamedTuple):
    """One bad record; a null key is the key that the topic wants."""

    topic: Topic
    value: bytes
    key: str | None = None


def poison(service: str, fleet: str, at_ms: int) -> list[Poison]:
    """Bad records for a loop that serves `service` on `fleet`, with instants around `at_ms`."""
    bare = [Poison(topic, value) for topic in READ for value in BYTES]
    return bare + [Poison(topic, json.dumps(document).encode(), key) for topic, key, document in _senseless(service, fleet, at_ms)]


READ = (Topic.TELEMETRY, Topic.SIGNALS, Topic.SPECS, Topic.PLACEMENTS, Topic.COMMANDS, Topic.ACTUATIONS, Topic.FLEET)


def _senseless(service: str, fleet: str, at_ms: int) -> list[tuple[Topic, str | None, dict[str, Any]]]:
    """Documents of the right shape whose figures cannot be."""
    window = {"service": service, "start_ms": at_ms, "end_ms": at_ms + 60_000, "spec_revision": 1, "roles": {}, "late_samples": 0}
    counts = {"serving": -5, "loading": 0, "draining": 0, "silent": 0}
    command = {
        "id": "0" * 16,
        "revision": 1_000_000,
        "service": service,
        "fleet": fleet,
        "at_ms": at_ms,
        "decision_id": "0" * 16,
        "roles": {"prefill": {"replicas": 1, "gpus": 8, "gpu_types": [{"type": "H20"}]}},
    }
    placement = {
        "service": service,
        "fleet": fleet,
        "revision": 1,
        "command_id": "0" * 16,
        "seq": 1,
        "gen": 1,
        "at_ms": at_ms,
        "status": "converged",
    }
    spec = {
        "service": service,
        "fleet": fleet,
        "mode": "active",
        "revision": 99,
        "applied_at_ms": at_ms,
        "roles": {"prefill": {"min": 1, "max": 6, "gpus": 8, "gpu_types": [{"type": "H20"}]}},
        "ratio": {"prefill": 1},
        "signals": [{"metric": "prefill_tps", "role": "prefill", "target": 100}],
    }
    node = {
        "node": "n",
        "fleet": fleet,
        "gpu_type": "H20",
        "gpus": 8,
        "at": {"cluster": "c", "s2": "A", "s1": "a"},
        "state": "ready",
        "used": 0,
        "observed_at_ms": at_ms,
    }
    acknowledged = {"service": service, "fleet": fleet, "instance": "x", "at_ms": at_ms, "kind": "ready", "actuator": "a"}
    role = {"replicas": 1, "gpus": 8, "gpu_types": [{"type": "H20"}]}
    return [
        (Topic.TELEMETRY, None, {"kind": "samples", "service": service, "source": "s", "samples": 3}),
        (Topic.TELEMETRY, None, {"kind": "tock", "at_ms": at_ms}),
        (Topic.SIGNALS, None, window | {"end_ms": "soon"}),
        (Topic.SIGNALS, None, window | {"roles": {"decode": {"instances": counts}}}),
        (Topic.SIGNALS, None, window | {"end_ms": at_ms - 1}),
        (Topic.SPECS, None, spec | {"window": {"size": "0s"}}),
        (Topic.SPECS, None, spec | {"roles": {"prefill": {"min": 9, "max": 3, "gpus": 8}}}),
        (Topic.SPECS, None, spec | {"ratio": {"prefill": 0}}),
        (Topic.SPECS, "somebody-else", spec),
        (Topic.PLACEMENTS, None, placement | {"status": "splendid"}),
        (Topic.PLACEMENTS, None, placement | {"seq": -1}),
        (Topic.COMMANDS, None, command | {"roles": {"prefill": role | {"replicas": -5}}}),
        (Topic.COMMANDS, None, command | {"roles": {"prefill": role | {"gpus": 0}}}),
        (Topic.COMMANDS, None, command | {"roles": {"prefill": role | {"gpus": -8}}}),
        (Topic.COMMANDS, None, command | {"roles": {"prefill": role | {"draining": -1}}}),
        (Topic.COMMANDS, None, command | {"roles": {"prefill": role | {"gpu_types": [{"type": "H20", "weight": 0}]}}}),
        (Topic.COMMANDS, None, command | {"roles": {"prefill": role | {"parts": {"a": {"count": 0, "gpus": 8}}}}}),
        (Topic.COMMANDS, None, command | {"at_ms": -1}),
        (Topic.ACTUATIONS, None, acknowledged | {"kind": "asleep"}),
        (Topic.ACTUATIONS, None, acknowledged | {"at_ms": -1}),
        (Topic.FLEET, f"{fleet}/n", node | {"gpus": -8}),
        (Topic.FLEET, f"{fleet}/n", node | {"used": 9}),
        (Topic.FLEET, f"{fleet}/n", node | {"used": -1}),
        (Topic.FLEET, f"{fleet}/other", node),
        (Topic.FLEET, "no-slash", node),
    ]
