"""Service discovery, driven by `routable`: who may be sent requests. An interface, one that writes files and one that puts them.

A router reads DIRECTORY/SERVICE.json and follows its changes, or is given the same document by PUT URL/SERVICE. It is replaced in one step
and is never shorter than the truth by accident: while a registrar cannot write, what stands stays, so traffic goes on as it went
(FAIL-STATIC).
"""

from __future__ import annotations

import asyncio
import string
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import quote

import msgspec

from heteroscale.actuation import files
from heteroscale.actuation.signed_http import Recipient, SignedClient
from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.placements import Group, InstanceState, PlacedInstance, Placement

FIELDS: Final = frozenset({"service", "instance", "role", "node", "group"})
_ROUTED: Final = frozenset({InstanceState.READY})


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One instance that takes requests. Its address is that of its first node."""

    instance: str
    address: str
    group: str
    gpu_type: str
    part: str | None


class Endpoints(msgspec.Struct, frozen=True, kw_only=True):
    """All that a router needs to know of a service."""

    service: str
    version: str
    at_ms: int
    roles: dict[str, list[Endpoint]]


class Registrar(Protocol):
    """Makes the routable instances of a service known, and only those."""

    async def register(self, placement: Placement) -> None:
        """Publish the verdict; again is harmless. Raises Retryable."""
        ...

    async def close(self) -> None:
        """Let go of what is held; what was published stays."""
        ...


class FileRegistrar:
    """A JSON file a service. `address` is a template such as `http://{node}:8000`."""

    def __init__(self, directory: Path, address: str) -> None:
        self._directory = directory
        self._address = checked(address)

    async def register(self, placement: Placement) -> None:
        """Replace the file if the routable instances changed. Raises Retryable."""
        found = endpoints(placement, self._address)
        path = files.path_of(self._directory, placement.service)
        if await asyncio.to_thread(_roles, path) != found.roles:
            await asyncio.to_thread(files.replace, path, codec.encode(found) + b"\n")

    async def close(self) -> None:
        """Nothing is held."""


class HttpRegistrar:
    """PUT URL/SERVICE, signed like a webhook: for a gateway, a router or a registry with such an API."""

    def __init__(self, recipient: Recipient, address: str) -> None:
        self._client = SignedClient(recipient)
        self._address = checked(address)
        self._known: dict[str, dict[str, list[Endpoint]]] = {}

    async def register(self, placement: Placement) -> None:
        """Put the verdict if it changed, and once after a start. Raises Retryable."""
        found = endpoints(placement, self._address)
        if self._known.get(placement.service) == found.roles:
            return
        url = f"{self._client.recipient.url.rstrip('/')}/{quote(placement.service, safe='')}"
        await self._client.send("PUT", url, codec.encode(found), {})
        self._known[placement.service] = found.roles

    async def close(self) -> None:
        """Let go of connections."""
        await self._client.close()


def checked(template: str) -> str:
    """An address template. Raises Rejected (`address`) that says what it may hold."""
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise Rejected("address", f"{error}; write such as http://{{node}}:8000", template) from error
    if unknown := sorted(names - FIELDS):
        raise Rejected("address", f"there is no {{{unknown[0]}}}; there are {', '.join(sorted(FIELDS))}", template)
    return template


def endpoints(placement: Placement, address: str) -> Endpoints:
    """The routable instances, by role and name. Pure."""
    roles: dict[str, list[Endpoint]] = {}
    for group in placement.groups:
        for one in group.instances:
            if one.routable and one.state in _ROUTED:
                roles.setdefault(one.role, []).append(_endpoint(placement, group, one, address))
    return Endpoints(
        service=placement.service,
        version=f"{placement.gen}.{placement.seq}",
        at_ms=placement.at_ms,
        roles={role: sorted(found, key=lambda one: one.instance) for role, found in sorted(roles.items())},
    )


def _endpoint(placement: Placement, group: Group, one: PlacedInstance, address: str) -> Endpoint:
    where = address.format(service=placement.service, instance=one.id, role=one.role, node=min(one.nodes, default=""), group=group.id)
    return Endpoint(instance=one.id, address=where, group=group.id, gpu_type=one.gpu_type, part=one.part)


def _roles(path: Path) -> dict[str, list[Endpoint]] | None:
    try:
        return codec.decode(Endpoints, path.read_bytes()).roles
    except (OSError, Rejected):
        return None
