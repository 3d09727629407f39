"""specs.v1 as a store of revisions: read, write the next one, notice another writer, let go."""

from __future__ import annotations

import getpass
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from heteroscale.bus.log import Entry, Record
from heteroscale.cli.field_diff import Change
from heteroscale.cli.log_view import LogView, decoded
from heteroscale.cli.spec_diff import diff
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import InstanceState, Placement
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.contracts.topics import Topic
from heteroscale.decision.specs import validation
from heteroscale.decision.specs.problems import SpecInvalid, did_you_mean


class Revision(NamedTuple):
    """One record of a service on specs.v1; `spec` is null where the service was let go."""

    record: Record
    spec: ServiceSpec | None


class Applied(NamedTuple):
    """What applying a spec did, or (dry run) would do."""

    spec: ServiceSpec
    before: ServiceSpec | None
    changes: list[Change]

    @property
    def action(self) -> str:
        """created, changed or unchanged."""
        if self.before is None:
            return "created"
        return "changed" if self.changes else "unchanged"


class SpecStore:
    """The specs of one prefix. `between` runs between reading and writing (tests let another writer in there)."""

    def __init__(self, view: LogView, between: Callable[[], Awaitable[None]] | None = None) -> None:
        self.view = view
        self._between = between

    async def in_force(self) -> dict[str, ServiceSpec]:
        """The newest spec of each service, by name."""
        return await self.view.newest_each(ServiceSpec, Topic.SPECS)

    async def history(self, service: str) -> list[Revision]:
        """All revisions still held, oldest first. Raises Rejected (`no_service`) that names the nearest service."""
        revisions = await self._revisions(service)
        if not revisions:
            raise await self._unknown(service)
        return revisions

    async def get(self, service: str) -> ServiceSpec:
        """The spec in force. Raises Rejected (`no_service`)."""
        specs = await self.in_force()
        if service not in specs:
            raise await self._unknown(service)
        return specs[service]

    async def apply(self, wanted: ServiceSpec, *, reason: str | None = None, dry_run: bool = False, force: bool = False) -> Applied:
        """Write the next revision unless nothing differs (`force` writes anyway).

        Raises SpecInvalid when the change makes no sense, Rejected (`conflict`) when another writer came between.
        """
        revisions = await self._revisions(wanted.service)
        before = revisions[-1].spec if revisions else None
        latest = max((revision.spec.revision or 0 for revision in revisions if revision.spec), default=0)
        if wanted.revision is not None and wanted.revision != latest:
            cure = f"look at it with heteroscale specs diff {wanted.service} {wanted.revision} {latest}, then apply without `revision`"
            raise Rejected(
                "conflict", f"it was made from revision {wanted.revision}, and revision {latest} is in force; {cure}", wanted.service
            )
        problems = list(validation.check_change(before, wanted, await self._instances(wanted.service)))
        if problems:
            raise SpecInvalid(problems, wanted.service)
        changes = diff(before, wanted)
        spec = msgspec.structs.replace(
            wanted,
            revision=latest + 1,
            applied_at_ms=await self.view.now_ms(),
            applied_by=_whoami(),
            reason=reason,
        )
        if before is not None and not changes and not force:
            return Applied(before, before, [])
        if not dry_run:
            await self._write(wanted.service, spec, revisions)
        return Applied(spec, before, changes)

    async def let_go(self, service: str) -> None:
        """Write the tombstone. Raises Rejected (`no_service`, `conflict`)."""
        await self.get(service)
        await self._write(service, None, await self._revisions(service))

    async def _write(self, service: str, spec: ServiceSpec | None, seen: list[Revision]) -> None:
        """Append, then look whether somebody else wrote since `seen` was read; theirs came first, so theirs is put back."""
        if self._between is not None:
            await self._between()
        key = service.encode()
        topic = self.view.name(Topic.SPECS)
        stamp = spec.applied_at_ms if spec is not None and spec.applied_at_ms is not None else await self.view.now_ms()
        value = None if spec is None else codec.encode(spec)
        [offset] = await self.view.log.append([Entry(topic, key, value, stamp)])
        read_to = seen[-1].record.offset if seen else -1
        others = [revision.record for revision in await self._revisions(service) if read_to < revision.record.offset < offset]
        if others:
            theirs = others[-1]
            await self.view.log.append([Entry(topic, key, theirs.value, theirs.timestamp_ms)])
            raise Rejected("conflict", "another writer came between; theirs stays in force, look at it and apply again", service)

    async def _revisions(self, service: str) -> list[Revision]:
        key = service.encode()
        at = await self.view.home(Topic.SPECS, service)
        records = [record for record in await self.view.records(Topic.SPECS, [at]) if record.key == key]
        revisions = [Revision(record, decoded(ServiceSpec, record)) for record in records]
        return [found for found in revisions if found.spec is not None or found.record.value is None]

    async def _instances(self, service: str) -> dict[str, int]:
        """Instances that its newest Placement lists, per role, without failed ones."""
        placement = await self.view.newest(Placement, Topic.PLACEMENTS, service)
        counts: dict[str, int] = {}
        for group in placement.groups if placement else []:
            for instance in group.instances:
                if instance.state is not InstanceState.FAILED:
                    counts[instance.role] = counts.get(instance.role, 0) + 1
        return counts

    async def _unknown(self, service: str) -> Rejected:
        names = list(await self.in_force())
        hint = did_you_mean(service, names) if names else "no service has a spec yet; heteroscale apply SPEC.yaml"
        return Rejected("no_service", f"no service {service!r}; {hint}")


def _whoami() -> str | None:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # no such user in this container
        return None
