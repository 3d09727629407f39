"""Records that cannot be used go to dead-letters.v1, with their place, a code and the payload, and the rest goes on.

NOTHING-LOST: a refused record is durable there before its offset is committed. And a whole stream is never diverted: past the
limits (too many in a row, or too large a share of a window of records) the guard raises Broken, because then it is us who are wrong.
What a new process reads again (telemetry of one lookback, specs and nodes from their beginning) is not written again.

The command line's part (`heteroscale dead-letters list|show|retry`):

    async for letter in dead_letters.read(log, prefix): …          # list: Letter(offset, dead_letter), oldest first; filters below
    letter = await dead_letters.get(log, prefix, offset)            # show: one, by its offset in dead-letters.v1 (null if none)
    place = await dead_letters.retry(log, letter)                   # retry: the payload again, to its topic and partition
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from heteroscale.bus import scan
from heteroscale.bus.log import Entry, Log, Record, TopicPartition
from heteroscale.bus.settings import BusSettings
from heteroscale.contracts import codec, keys
from heteroscale.contracts.dead_letters import DeadLetter
from heteroscale.contracts.errors import Broken, Rejected
from heteroscale.contracts.topics import CATALOGUE, Cleanup, Topic, topic_name, topic_of

T = TypeVar("T")


class Letter(NamedTuple):
    """A dead letter and where it lies in dead-letters.v1."""

    offset: int
    dead_letter: DeadLetter


class Place(NamedTuple):
    """Where a record was appended."""

    at: TopicPartition
    offset: int


class Counter(Protocol):
    """Who counts dead letters (runtime.metering feeds the metrics)."""

    def __call__(self, topic: str, stage: str, code: str) -> None:
        """One more."""
        ...


@dataclass(frozen=True, slots=True)
class Limits:
    """When refusing records is no longer the records' fault. Each number counts records of one stage in one process."""

    consecutive: int = BusSettings().dead_letters_consecutive
    ratio: float = BusSettings().dead_letters_percent / 100
    window: int = 1_000  # records over which the ratio is taken; it is judged once so many were seen


_Mark: TypeAlias = tuple[TopicPartition, int, int, tuple[str, ...], tuple[bytes, ...]]
_Same: TypeAlias = tuple[str, int, int, str, str, bytes]


def limits_of(settings: BusSettings | None) -> Limits:
    """As people set them; null has the defaults."""
    given = settings or BusSettings()
    return Limits(consecutive=given.dead_letters_consecutive, ratio=given.dead_letters_percent / 100)


class Guard:
    """Guarded use of records by one stage: good ones pass, bad ones become dead letters, too many stop the process."""

    def __init__(self, log: Log, prefix: str, stage: str, *, limits: Limits | None = None, counter: Counter | None = None) -> None:
        self._log = log
        self._prefix = prefix
        self._topic = topic_name(prefix, Topic.DEAD_LETTERS)
        self._stage = stage
        self._limits = Limits() if limits is None else limits
        self._counter = counter
        self._consecutive = 0
        self._recent: deque[bool] = deque(maxlen=self._limits.window)
        self._refused = 0
        self._durable: deque[_Mark] = deque(maxlen=self._limits.window)
        self._standing: set[_Same] | None = None

    async def decode(self, record: Record, kind: type[T]) -> T | None:
        """The record's value as a `kind`; null if it was refused, which is then durable. Raises Retryable, Broken."""
        return await self.use(record, lambda payload: codec.decode(kind, payload))

    async def use(self, record: Record, reading: Callable[[bytes], T]) -> T | None:
        """`reading(value)`; a Rejected that it raises makes a dead letter, and the answer null. A tombstone is refused as `empty`."""
        try:
            value = reading(_payload(record))
        except Rejected as error:
            await self.refuse(record, [error])
            return None
        self.passed()
        return value

    def passed(self) -> None:
        """Count a good record."""
        self._consecutive = 0
        self._note(bad=False)

    async def refuse(self, record: Record, errors: Sequence[Rejected], payloads: Sequence[bytes] | None = None) -> None:
        """Put a record, or those parts of it that `payloads` gives (one an error), in dead letters. Counts as one refused record.

        The same again in this process (a batch that is tried anew) neither writes nor counts.
        """
        mark = (record.at, record.offset, record.timestamp_ms, tuple(error.code for error in errors), tuple(payloads or ()))
        if mark in self._durable:
            return
        whole = record.value if record.value is not None else b""
        letters = [
            DeadLetter(
                topic=record.topic,
                partition=record.partition,
                offset=record.offset,
                key=None if record.key is None else keys.text_of(record.key),
                at_ms=record.timestamp_ms,
                stage=self._stage,
                code=error.code,
                message=str(error),
                payload=whole if payloads is None else payloads[index],
            )
            for index, error in enumerate(errors)
        ]
        stands = await self._stand(letters)
        if not stands:
            at_ms = max(0, record.timestamp_ms)
            await self._log.append([Entry(self._topic, record.key, codec.encode(letter), at_ms, partition=0) for letter in letters])
        self._durable.append(mark)
        if stands and _is_compacted(record.topic):
            return  # it was passed over once and will be read at every start
        if self._counter is not None and not stands:
            for letter in letters:
                self._counter(record.topic, self._stage, letter.code)
        self._consecutive += 1
        self._note(bad=True)
        self._judge(record, errors)

    async def _stand(self, letters: Sequence[DeadLetter]) -> bool:
        """Whether an earlier process of this stage wrote these already. Looked up once, at the first refusal."""
        if self._standing is None:
            found = [letter.dead_letter async for letter in _all(self._log, self._prefix)]
            self._standing = {_same(letter) for letter in found if letter.stage == self._stage}
        return all(_same(letter) in self._standing for letter in letters)

    def _note(self, *, bad: bool) -> None:
        if len(self._recent) == self._recent.maxlen:
            self._refused -= self._recent[0]
        self._recent.append(bad)
        self._refused += bad

    def _judge(self, record: Record, errors: Sequence[Rejected]) -> None:
        """Raises Broken past the limits."""
        latest = f"the latest is {record.topic}-{record.partition} at {record.offset} ({errors[-1]})" if errors else ""
        if self._consecutive >= self._limits.consecutive:
            cure = "if they are really to be passed over, start once with a higher HETEROSCALE_DEAD_LETTERS_CONSECUTIVE"
            raise Broken(f"{self._stage} refused {self._consecutive} records in a row; {latest}; {cure}")
        cure = "if they are really to be passed over, start once with a higher HETEROSCALE_DEAD_LETTERS_PERCENT"
        if len(self._recent) == self._limits.window and self._refused > self._limits.ratio * self._limits.window:
            raise Broken(f"{self._stage} refused {self._refused} of the last {self._limits.window} records; {latest}; {cure}")


async def read(
    log: Log, prefix: str, *, topic: str | None = None, stage: str | None = None, code: str | None = None
) -> AsyncIterator[Letter]:
    """Dead letters up to the end as it is now, oldest first. `topic` with or without the prefix.

    Two workers may refuse one record while a partition changes hands; the first letter stands for all.
    """
    wanted = {topic, f"{prefix}.{topic}"}
    known: set[_Same] = set()
    async for letter in _all(log, prefix):
        found = letter.dead_letter
        if _same(found) in known:
            continue
        known.add(_same(found))
        if (topic is None or found.topic in wanted) and stage in {None, found.stage} and code in {None, found.code}:
            yield letter


async def get(log: Log, prefix: str, offset: int) -> Letter | None:
    """The dead letter at an offset of dead-letters.v1."""
    async for letter in _all(log, prefix):
        if letter.offset == offset:
            return letter
    return None


async def _all(log: Log, prefix: str) -> AsyncIterator[Letter]:
    """Every record of dead-letters.v1 that is a letter."""
    async for batch in scan.to_end(log, await scan.partitions_of(log, [topic_name(prefix, Topic.DEAD_LETTERS)])):
        for record in batch:
            with contextlib.suppress(Rejected):  # foreign bytes are nobody's letter
                yield Letter(record.offset, codec.decode(DeadLetter, record.value or b""))


async def retry(log: Log, letter: Letter) -> Place:
    """Append the payload again where it came from (same topic, partition, key and timestamp). Raises Rejected if that is impossible.

    The dead letter stays: the log forgets nothing. A part of a record (one sample) is not a record of its own and is refused.
    """
    found = letter.dead_letter
    if found.code == "empty":
        raise Rejected("not_retryable", "a record without a value would be empty again", f"dead letter {letter.offset}")
    if _is_part(found):
        raise Rejected("not_retryable", "it is one sample of a record, whose other samples were used", f"dead letter {letter.offset}")
    key = None if found.key is None else found.key.encode()
    entry = Entry(found.topic, key, found.payload, found.at_ms, partition=found.partition)
    return Place(TopicPartition(found.topic, found.partition), (await log.append([entry]))[0])


def _same(letter: DeadLetter) -> _Same:
    """What two letters about one record have in common."""
    return (letter.topic, letter.partition, letter.offset, letter.stage, letter.code, hashlib.sha256(letter.payload).digest())


def _is_compacted(name: str) -> bool:
    """Whether a topic is read from its beginning at every start."""
    topic = topic_of(name)
    return topic is not None and CATALOGUE[topic].cleanup is Cleanup.COMPACT


def _payload(record: Record) -> bytes:
    if record.value is None:
        raise Rejected("empty", "a record without a value")
    return record.value


def _is_part(found: DeadLetter) -> bool:
    """Whether the payload is one sample of a telemetry record."""
    try:
        document: Any = codec.decode(dict, found.payload)
    except Rejected:
        return False
    return "kind" not in document and "instance" in document and found.topic.endswith(Topic.TELEMETRY.value)
