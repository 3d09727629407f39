"""actuations.v1 as it stands: the last word of every instance, followed from the beginning. Compared, never obeyed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from heteroscale.bus import scan
from heteroscale.bus.log import Log, Record, TopicPartition
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import Actuation
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.names import FleetName, InstanceName
from heteroscale.placement import words


class ActuationsTopic:
    """The newest word of every instance, per fleet, in one partition. Each `catch_up` goes on where the last one ended."""

    def __init__(self, log: Log, at: TopicPartition) -> None:
        self._log = log
        self._at: Final = at
        self._position = 0
        self._words: dict[FleetName, dict[InstanceName, Actuation]] = {}

    def of(self, fleet: FleetName) -> Mapping[InstanceName, Actuation]:
        """Last words in a fleet."""
        return self._words.get(fleet, {})

    async def catch_up(self) -> None:
        """Read to the end that the partition has now. Raises Retryable."""
        async for batch in scan.to_end(self._log, [self._at], {self._at: self._position}):
            for record in batch:
                self._position = record.offset + 1
                self._fold(record)

    def _fold(self, record: Record) -> None:
        try:
            word = codec.decode(Actuation, record.value) if record.value is not None else None
        except Rejected:
            return  # the worker that holds the partition puts it in dead letters
        if word is not None:
            known = self._words.setdefault(word.fleet, {})
            known[word.instance] = words.last(word, known.get(word.instance))
