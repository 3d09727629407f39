"""The file actuator: desired state as one JSON file a service, for Ansible, Slurm, a cron job or a person to carry out.

    DIRECTORY/SERVICE.json              what there is to be (a Desired document), replaced in one step when it changes
    DIRECTORY/answers/SERVICE/*.json    what has become of it: {"instance", "kind": starting|ready|failed|stopped, "detail"?}

Answers are sent on as acknowledgements and deleted; what cannot be used is moved to answers/SERVICE/refused/. Write an answer under a name
with a leading dot and rename it, so that it is read whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec

from heteroscale.actuation import desired, files
from heteroscale.actuation.subscriber import Acknowledger, Assignment
from heteroscale.contracts import codec
from heteroscale.contracts.actuations import ActuationKind
from heteroscale.contracts.commands import Command
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.placements import Placement
from heteroscale.runtime import logs

LOOK_AGAIN_S: Final = 1.0


class Answer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What has become of an instance."""

    instance: str
    kind: ActuationKind
    detail: str | None = None


class FileActuator:
    """Writes desired state, reads answers."""

    def __init__(self, acknowledge: Acknowledger, directory: Path) -> None:
        self._acknowledge = acknowledge
        self._directory = directory
        self._logger = logs.logger(actuator="file", directory=str(directory))

    async def place(self, assignment: Assignment[Placement]) -> float | None:
        """Write the assignment if it changed, send the answers there are. Raises Retryable."""
        await self._write(assignment.value)
        await self._answers(assignment.value)
        return LOOK_AGAIN_S

    async def scale(self, assignment: Assignment[Command]) -> float | None:
        """Write the counts if they changed. Raises Retryable."""
        await self._write(assignment.value)
        return None

    async def close(self) -> None:
        """Nothing is held."""

    async def _write(self, value: Placement | Command) -> None:
        wanted = desired.of(value)
        path = files.path_of(self._directory, value.service)
        known = await asyncio.to_thread(_read, path)
        if known is not None and msgspec.structs.replace(known, at_ms=wanted.at_ms, version=wanted.version) == wanted:
            return  # an affirmation, or a record that changed nothing for an actuator
        if await asyncio.to_thread(files.replace, path, codec.encode(wanted) + b"\n"):
            self._logger.info("desired_state_written", service=value.service, version=wanted.version, replicas=wanted.replicas)

    async def _answers(self, placement: Placement) -> None:
        folder = self._directory / "answers" / quote(placement.service, safe="")
        names = {one.id for group in placement.groups for one in group.instances}
        for path in await asyncio.to_thread(_listed, folder):
            try:
                answer = _checked(path, await asyncio.to_thread(path.read_bytes), names)
            except Rejected as error:
                self._logger.warning("answer_refused", path=str(path), error=str(error))
                await asyncio.to_thread(_refuse, path)
                continue
            except OSError as error:
                raise Retryable(f"{path}: {error}") from error
            await self._acknowledge.send(placement, answer.instance, answer.kind, answer.detail)
            await asyncio.to_thread(path.unlink, missing_ok=True)


def _read(path: Path) -> desired.Desired | None:
    """What is desired already; null for none, and for what cannot be read (it is written anew)."""
    try:
        return codec.decode(desired.Desired, path.read_bytes())
    except (OSError, Rejected):
        return None


def _checked(path: Path, payload: bytes, names: Collection[str]) -> Answer:
    """An answer about an instance that there is. Raises Rejected."""
    answer = codec.decode(Answer, payload)
    if answer.instance not in names:
        raise Rejected("unknown_instance", f"{answer.instance} is not placed", str(path))
    return answer


def _listed(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))
    except OSError:
        return []


def _refuse(path: Path) -> None:
    try:
        (path.parent / "refused").mkdir(exist_ok=True)
        path.replace(path.parent / "refused" / path.name)
    except OSError as error:
        raise Retryable(f"{path}: {error}") from error
