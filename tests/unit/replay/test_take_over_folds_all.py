"""What a decision worker that takes over makes of placements is what one that never stopped made of them."""

from __future__ import annotations

import msgspec

from heteroscale.bus.dead_letters import Guard
from heteroscale.bus.log import Entry, TopicLayout
from heteroscale.bus.memory import MemoryLog
from heteroscale.contracts import codec
from heteroscale.contracts.placements import Placement
from heteroscale.contracts.topics import CATALOGUE, Topic, topic_name
from heteroscale.decision import controller
from heteroscale.decision.controller import ServiceState, Source
from heteroscale.decision.memory import Memory
from support import lawbook


def placement(seq: int, decode: int) -> Placement:
    """A placement that lists so many decodes."""
    return lawbook.placement(1, seq=seq, counts={"decode": {"ready": decode}})


async def test_same_in_same_out_a_take_over_folds_every_placement() -> None:
    """SAME-IN-SAME-OUT: two placements between decisions, the second like the one before the first, leave the same state either way."""
    log = MemoryLog()
    await log.create_topics([TopicLayout(topic_name("t", topic), spec.partitions, {}) for topic, spec in CATALOGUE.items()])
    memory = Memory(log, "t", Guard(log, "t", "decision"))
    partition = memory.partition_of("chat")
    state = ServiceState("chat", lawbook.spec())
    rows = [placement(1, 4), placement(2, 5), placement(3, 4)]
    at = f"{topic_name('t', Topic.PLACEMENTS)}-{partition}"
    state, _ = controller.step(state, rows[0], Source(at, 1))
    state, effects = controller.step(
        state, lawbook.window(1, decode=4, load=4.0), Source(f"{topic_name('t', Topic.SIGNALS)}-{partition}", 1)
    )
    assert effects.state is not None
    await log.append([Entry(topic_name("t", Topic.DECISION_STATE), b"chat", codec.encode(effects.state), 1, partition)])
    await log.append([Entry(topic_name("t", Topic.PLACEMENTS), b"chat", codec.encode(row), 1, partition) for row in rows])
    memory.specs["chat"] = (lawbook.spec(), Source("s", 1))
    await memory.take_over([partition])
    for number, row in enumerate(rows[1:], start=2):
        state, _ = controller.step(state, row, Source(at, number))
    assert msgspec.structs.replace(state, spec=None) == msgspec.structs.replace(memory.states["chat"], spec=None)
