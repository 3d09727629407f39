"""The inventory on Redis. One script a change; every await has a deadline; errors of the client become ours here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
import redis.asyncio as redis_client
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    ClusterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

from heteroscale.contracts.errors import Broken, Retryable
from heteroscale.contracts.names import FleetName, NodeName
from heteroscale.contracts.topics import DEFAULT_PREFIX
from heteroscale.placement.inventory import scripts
from heteroscale.placement.inventory.entries import (
    FleetImage,
    InstanceEntry,
    NodeEntry,
    NodeRecord,
    ServiceEntry,
    Unreadable,
    decoded,
    node_parts,
    whole_number,
)
from heteroscale.placement.inventory.gang import Gang, Outcome, Verdict
from heteroscale.placement.inventory.protocol import Build, NodeSync, OutEntry
from heteroscale.placement.inventory.scripts import Keys
from heteroscale.runtime.settings import RedisSettings

BUILD_DEADLINE_FACTOR: Final = 15  # a rebuild of tens of thousands of nodes is one long script
PIPELINE_MAX: Final = 256
AWAY: Final = ("BUSY", "NOREPLICAS", "MISCONF")  # what the server says while it cannot serve, of codes that the client has no class for
AWAY_ERRORS: Final = (ClusterDownError, NoScriptError, OutOfMemoryError, ReadOnlyError, TryAgainError)  # of the others

_packed: Final = msgspec.msgpack.Decoder(list[list[str] | str])

Client = redis_client.Redis | redis_client.RedisCluster


def connect(url: str, *, timeout_ms: int, cluster: bool = False, **security: Any) -> Client:
    """A client of a server or a cluster. Connects when first used."""
    seconds = timeout_ms / 1_000
    retry = Retry(ExponentialBackoff(cap=0.2, base=0.02), 2)
    options = {"socket_timeout": seconds, "socket_connect_timeout": seconds, "retry": retry, **security}
    if cluster:
        return redis_client.RedisCluster.from_url(url, **options)
    return redis_client.Redis.from_url(url, **options)


def client_of(settings: RedisSettings, *, cluster: bool = False) -> Client:
    """A client of the address in the settings, with their user, password and certificates."""
    security = {"username": settings.username, "password": settings.password}
    if (settings.url or "").startswith("rediss://"):
        security |= {"ssl_ca_certs": settings.tls_ca, "ssl_certfile": settings.tls_cert, "ssl_keyfile": settings.tls_key}
    given = {name: value for name, value in security.items() if value is not None}
    return connect(settings.url or "", timeout_ms=settings.timeout_ms, cluster=cluster, **given)


class RedisInventory:
    """See protocol.Inventory. `sources` replaces a script's text, so that a test can show what each check is for."""

    def __init__(
        self,
        client: Client,
        *,
        prefix: str = DEFAULT_PREFIX,
        timeout_ms: int = 2_000,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        self._client = client
        self._prefix = prefix
        self._timeout_s = timeout_ms / 1_000
        self._sources = {name: (sources or {}).get(name, scripts.source(name)) for name in scripts.NAMES}
        self._digests = {name: scripts.digest_of(text) for name, text in self._sources.items()}

    def keys(self, fleet: FleetName) -> Keys:
        """Where a fleet lives."""
        return Keys.of(fleet, self._prefix)

    async def take_fence(self, fleet: FleetName) -> int:
        """See protocol."""
        async with self._bounded("take the fence"):
            return int(await _awaited(self._client.hincrby(self.keys(fleet).meta, "fence", 1)))

    async def read(self, fleet: FleetName) -> FleetImage | None:
        """See protocol."""
        keys = self.keys(fleet)
        names = [keys.meta, keys.node, keys.svc, keys.inst, keys.used, keys.fleet]
        try:
            return _image(await self._run(scripts.READ, [*names], self._timeout_s * BUILD_DEADLINE_FACTOR))
        except Unreadable as error:
            cure = f"delete the key {keys.meta}, and the placement service builds it anew from the topics"
            raise Unreadable(f"inventory of fleet {fleet}: {error}; {cure}") from error

    async def stamp(self, fleet: FleetName) -> tuple[int, int] | None:
        """See protocol."""
        async with self._bounded("read the revision"):
            gen, rev = await _awaited(self._client.hmget(self.keys(fleet).meta, ["gen", "rev"]))
        return None if gen is None else (whole_number("gen", gen.decode()), whole_number("rev", (rev or b"0").decode()))

    async def build(self, build: Build) -> Outcome:
        """See protocol."""
        arguments = scripts.build_arguments(build, self.keys(build.fleet))
        return scripts.outcome(await self._run(scripts.BUILD, arguments, self._timeout_s * BUILD_DEADLINE_FACTOR))

    async def sync(self, sync: NodeSync) -> Outcome:
        """See protocol."""
        return scripts.outcome(
            await self._run(scripts.SYNC, scripts.sync_arguments(sync, self.keys(sync.fleet)), self._timeout_s * BUILD_DEADLINE_FACTOR)
        )

    async def apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        """See protocol."""
        outcomes: list[Outcome] = []
        for start in range(0, len(gangs), PIPELINE_MAX):
            outcomes += await self._apply(gangs[start : start + PIPELINE_MAX])
        return outcomes

    async def _apply(self, gangs: Sequence[Gang]) -> list[Outcome]:
        try:
            return await self._send(gangs)
        except Retryable:
            # The reply is lost, not the gangs: those in `done` were applied, the others may be sent again (the id makes it harmless).
            known = await self._ask(gangs)
            rest = [gang for gang in gangs if gang.id not in known]
            sent = await self._send(rest) if rest else []
            answers = known | {gang.id: outcome for gang, outcome in zip(rest, sent, strict=True)}
            return [answers[gang.id] for gang in gangs]

    async def _ask(self, gangs: Sequence[Gang]) -> dict[str, Outcome]:
        known: dict[str, Outcome] = {}
        for fleet in sorted({gang.fleet for gang in gangs}):
            ids = [gang.id for gang in gangs if gang.fleet == fleet]
            async with self._bounded("ask what was applied"):
                replies = await _awaited(self._client.hmget(self.keys(fleet).done, ids))
            for gang, reply in zip(ids, replies, strict=True):
                if reply is not None:
                    rev, entry = reply.decode().split(" ")
                    known[gang] = Outcome(verdict=Verdict.APPLIED, rev=int(rev), entry=entry)
        return known

    async def _send(self, gangs: Sequence[Gang]) -> list[Outcome]:
        replies = await self._evaluate(scripts.APPLY, [scripts.apply_arguments(gang, self.keys(gang.fleet)) for gang in gangs])
        return [scripts.outcome(reply) for reply in replies]

    async def outbox(self, fleet: FleetName, entries_max: int = 1_000) -> list[OutEntry]:
        """See protocol."""
        async with self._bounded("read what is to be published"):
            rows = await _awaited(self._client.execute_command("XRANGE", self.keys(fleet).out, "-", "+", "COUNT", entries_max))
        return [_out_entry(entry, fields) for entry, fields in rows]

    async def acknowledge(self, fleet: FleetName, entries: Sequence[str]) -> None:
        """See protocol."""
        if entries:
            async with self._bounded("acknowledge what was published"):
                await _awaited(self._client.xdel(self.keys(fleet).out, *entries))

    async def lease(self, fleet: FleetName, holder: str, ttl_ms: int) -> str:
        """See protocol."""
        key = self.keys(fleet).lease
        async with self._bounded("take the lease"):
            await _awaited(self._client.set(key, holder, nx=True, px=ttl_ms))
            found: bytes | None = await _awaited(self._client.get(key))
            if found is not None and found.decode() == holder:
                await _awaited(self._client.pexpire(key, ttl_ms))
            return found.decode() if found is not None else holder

    async def ping(self) -> None:
        """See protocol."""
        async with self._bounded("ping"):
            await _awaited(self._client.execute_command("PING"))

    async def warnings(self) -> list[str]:
        """See protocol. A server that hides CONFIG is not judged."""
        expected = {
            "appendonly": ("yes", "reservations made since the last dump are lost with the server"),
            "appendfsync": ("always", "up to a second of reservations is lost with the machine"),
            "maxmemory-policy": ("noeviction", "reservations may be evicted"),
        }
        found: list[str] = []
        for name, (wanted, otherwise) in expected.items():
            try:
                async with self._bounded("read the configuration"):
                    value = await _awaited(self._client.execute_command("CONFIG GET", name))
            except Broken as error:
                if isinstance(error.__cause__, AuthenticationError):
                    raise
                return [*found, "redis: CONFIG GET is refused, so durability cannot be checked"]
            actual = _config_value(value, name)
            if actual not in (None, wanted):
                found.append(f"redis: {name} is {actual}, so {otherwise}; set {name} {wanted}")
        return found

    async def forget(self, fleet: FleetName) -> None:
        """Delete all that is kept of a fleet. For one that nobody plans any more. Raises Retryable, Broken."""
        async with self._bounded("forget a fleet"):
            await self._client.delete(*self.keys(fleet))

    async def close(self) -> None:
        """See protocol."""
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._client.aclose()
        except (RedisError, OSError, TimeoutError):
            return

    async def _run(self, name: str, arguments: Sequence[scripts.Argument], deadline_s: float) -> Any:
        return (await self._evaluate(name, [arguments], deadline_s))[0]

    async def _evaluate(self, name: str, calls: Sequence[Sequence[scripts.Argument]], deadline_s: float | None = None) -> list[Any]:
        """Each call of a script, sent together; loaded where the server does not know it."""
        async with self._bounded(f"run {name}", deadline_s):
            replies = await self._pipelined(name, calls)
            if any(isinstance(reply, NoScriptError) for reply in replies):
                await _awaited(self._client.script_load(self._sources[name]))
                missing = [index for index, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
                again = await self._pipelined(name, [calls[index] for index in missing])
                for index, reply in zip(missing, again, strict=True):
                    replies[index] = reply
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    async def _pipelined(self, name: str, calls: Sequence[Sequence[scripts.Argument]]) -> list[Any]:
        count, digest = scripts.key_count(name), self._digests[name]
        if len(calls) == 1:
            try:
                return [await _awaited(self._client.evalsha(digest, count, *calls[0]))]
            except NoScriptError as error:
                return [error]
        pipeline = self._client.pipeline(transaction=False)
        for call in calls:
            pipeline.execute_command("EVALSHA", digest, count, *call)  # a cluster's pipeline has no `evalsha`; it keeps the order too
        return list(await pipeline.execute(raise_on_error=False))

    @asynccontextmanager
    async def _bounded(self, doing: str, deadline_s: float | None = None) -> AsyncIterator[None]:
        """One deadline around one exchange; what the client raises becomes Retryable or Broken."""
        try:
            async with asyncio.timeout(deadline_s or self._timeout_s):
                yield
        except AuthenticationError as error:
            raise Broken(f"redis: {doing}: {error}") from error
        except ResponseError as error:
            if isinstance(error, AWAY_ERRORS) or str(error).startswith(AWAY):
                raise Retryable(f"redis: {doing}: {error}") from error
            kind = Unreadable if str(error).startswith("WRONGTYPE") else Broken
            raise kind(f"redis: {doing}: {error}") from error
        except (RedisError, OSError, TimeoutError) as error:
            raise Retryable(f"redis: {doing}: {error or type(error).__name__}") from error


async def _awaited(call: Awaitable[Any] | Any) -> Any:
    """The client's methods are typed as either a value or an awaitable; here they are awaitables."""
    return await call


def _image(reply: bytes) -> FleetImage | None:
    """What read.lua answers, arranged; null if nothing was built. Raises Unreadable."""
    (meta, nodes, services, instances, used, records), server = _unpacked(reply)
    if "gen" not in meta:
        return None
    numbers = {name: whole_number(f"{name} of meta", meta.get(name, "0")) for name in ("gen", "rev", "cycle", "now_ms")}
    return FleetImage(
        **numbers,
        nodes=_nodes(nodes, used, records),
        services=decoded(ServiceEntry, services),
        instances=decoded(InstanceEntry, instances),
        run=meta.get("run", ""),
        server=server,
    )


def _unpacked(reply: bytes) -> tuple[list[dict[str, str]], str]:
    """What read.lua answers: the hashes, and the server's run."""
    try:
        *flat, server = _packed.decode(reply)
        return [dict(zip(part[::2], part[1::2], strict=True)) for part in flat], str(server)
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(str(error)) from error


def _nodes(nodes: Mapping[str, str], used: Mapping[str, str], records: Mapping[str, str]) -> dict[NodeName, NodeEntry]:
    known = decoded(NodeRecord, records)
    entries: dict[NodeName, NodeEntry] = {}
    for name, text in nodes.items():
        record = known.get(name)
        if record is None:
            raise Unreadable(f"node {name} has accounts and no fleet record")
        free, standing, revision = node_parts(name, text)
        entries[name] = NodeEntry(
            record=record.record,
            revision=revision,
            standing=standing,
            free=free,
            used=whole_number(f"used of node {name}", used.get(name, "0")),
            quarantine=record.quarantine,
        )
    return entries


def _out_entry(entry: bytes, fields: Sequence[bytes] | Mapping[bytes, bytes]) -> OutEntry:
    pairs = dict(fields) if isinstance(fields, Mapping) else dict(zip(fields[::2], fields[1::2], strict=True))
    return OutEntry(entry.decode(), pairs[b"service"].decode(), pairs[b"placement"])


def _config_value(reply: Any, name: str) -> str | None:
    found = reply if isinstance(reply, Mapping) else dict(zip(reply[::2], reply[1::2], strict=True))
    value = found.get(name.encode(), found.get(name))
    return value.decode() if isinstance(value, bytes) else value
