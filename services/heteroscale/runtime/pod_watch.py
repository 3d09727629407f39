"""Pods of one namespace by label: listed once, then watched, so that a look at them costs the API server nothing.

The picture is as new as the last event. A stream that ends, breaks or falls silent is taken up where it stopped; a version that the API
server has forgotten (410 Gone), or a stream that cannot be read, begins anew with a list. Bookmarks keep the version young and show
that a quiet stream is alive. Needs the extra `kubernetes`.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from typing import Any, Final

import httpx2
import msgspec
from lightkube import AsyncClient
from lightkube.config import client_adapter
from lightkube.core.exceptions import ConfigError
from lightkube.resources.core_v1 import Pod

from heteroscale.runtime import clock, logs, retry_after

LIST_LIMIT_S: Final = 15.0
CLOSE_LIMIT_S: Final = 2.0
CONNECT_LIMIT_S: Final = 10.0
ROUND_S: Final = 290  # the server ends a stream after this; the real one keeps it for five to ten minutes at most by default
SILENCE_S: Final = 150.0  # the real server sends a bookmark a minute: longer silence is a dead connection
SHORT_S: Final = 1.0  # a stream that ends earlier, and said nothing, is a failure
STALE_S: Final = 30.0  # with the stream away for longer, the picture is not shown any more
PAUSE_FIRST_S: Final = 0.25
PAUSE_MAX_S: Final = 15.0
CHUNK: Final = 500
_GONE: Final = 410
_FAILURES: Final = (httpx2.HTTPError, httpx2.StreamError, ConfigError, OSError, TimeoutError, ValueError)


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _Status(msgspec.Struct):
    code: int = 0
    message: str = ""


class _GoneError(Exception):
    """The version to go on from is not kept any more."""


class PodWatch:
    """Follows from `start` to `close`; `changed` is called after each change of the picture."""

    def __init__(
        self, client: AsyncClient, namespace: str, labels: Mapping[str, str], changed: Callable[[], None], *, silence_s: float = SILENCE_S
    ) -> None:
        self._client = client
        self._namespace = namespace
        self._labels = dict[str, Any](labels)
        self._changed = changed
        limit = httpx2.Timeout(CONNECT_LIMIT_S, read=silence_s)
        self._http = client_adapter.AsyncClient(client.config, client_adapter.ConnectionParams(timeout=limit))
        self._pods: dict[str, Pod] = {}
        self._is_whole = False
        self._tried = asyncio.Event()  # the first list is over, well or not
        self._error: Exception | None = None
        self._failing_since_s: float | None = None
        self._task: asyncio.Task[None] | None = None
        self._calm = asyncio.Event()  # nothing is being connected: httpx does not close what is cancelled in a handshake
        self._logger = logs.logger(namespace=namespace, labels=dict(labels))
        self.version: str | None = None

    async def pods(self) -> list[Pod]:
        """The pods by name. Raises what stands in the way (httpx2's errors, OSError, TimeoutError, ValueError) if there is no picture."""
        if self._task is None or self._task.done():
            if self._task is not None:
                self._task.result()  # nothing but a defect ends it: say so
            self._task = asyncio.create_task(self._follow(), name=f"pods-{self._namespace}")
        async with asyncio.timeout(LIST_LIMIT_S):
            await self._tried.wait()
        if self._error is not None and (not self._is_whole or self._is_stale()):
            raise self._error
        return [self._pods[name] for name in sorted(self._pods)]

    def note(self, pod: Pod) -> None:
        """What a write of our own made of a pod: the picture must not lag behind what we did."""
        name = _name(pod)
        if name in self._pods and not _is_older(pod, self._pods[name]):
            self._pods[name] = pod

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CLOSE_LIMIT_S):
                    await self._calm.wait()
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._http.aclose()

    async def _follow(self) -> None:
        """List, watch, and go on after whatever happens."""
        pause_s = PAUSE_FIRST_S
        while True:
            began_s = clock.monotonic_s()
            self._calm.clear()
            try:
                if self.version is None:
                    await self._list()
                came = await self._stream()
                if not came and clock.monotonic_s() - began_s < SHORT_S:
                    raise httpx2.RemoteProtocolError("the watch ended at once")
                pause_s = PAUSE_FIRST_S
                continue
            except _GoneError:
                self.version = None
                self._logger.info("watch_listed_again", reason="version gone")
                if clock.monotonic_s() - began_s >= SHORT_S:
                    continue
            except _FAILURES as error:
                self._failed(error)
            self._calm.set()
            await asyncio.sleep(max(pause_s, _asked_for_s(self._error)))
            pause_s = min(PAUSE_MAX_S, pause_s * 2)

    def _failed(self, error: Exception) -> None:
        """Remember since when; what cannot be read may have been missed, so it is listed again."""
        if self._failing_since_s is None:
            self._failing_since_s = clock.monotonic_s()
            self._logger.warning("watch_broken", error=str(error) or type(error).__name__)
        self._error = error
        self._tried.set()
        if isinstance(error, ValueError):
            self.version = None

    def _well(self) -> None:
        self._error = self._failing_since_s = None

    def _is_stale(self) -> bool:
        return self._failing_since_s is not None and clock.monotonic_s() - self._failing_since_s >= STALE_S

    async def _list(self) -> None:
        """The whole picture, and the version to watch from."""
        async with asyncio.timeout(LIST_LIMIT_S):
            listing = self._client.list(Pod, namespace=self._namespace, labels=self._labels, chunk_size=CHUNK)
            try:
                found = {_name(pod): pod async for pod in listing}
            except httpx2.HTTPStatusError as error:
                raise (_GoneError() if error.response.status_code == _GONE else error) from error
        self._pods, self.version = found, listing.resourceVersion
        self._is_whole = True
        self._well()
        self._tried.set()
        self._changed()

    async def _stream(self) -> bool:
        """Events until the stream ends; whether any came. Raises _GoneError, or what broke."""
        came = False
        selector = ",".join(f"{key}={value}" for key, value in sorted(self._labels.items()))
        wanted = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(ROUND_S), "labelSelector": selector}
        parameters = wanted | {"resourceVersion": self.version or ""}
        async with self._http.stream("GET", f"/api/v1/namespaces/{self._namespace}/pods", params=parameters) as response:
            if response.status_code == _GONE:
                raise _GoneError
            response.raise_for_status()
            self._well()
            self._calm.set()
            async for line in response.aiter_lines():
                if line.strip():
                    self._take(msgspec.json.decode(line, type=_Event))
                    came = True
        return came

    def _take(self, event: _Event) -> None:
        """One event. Raises _GoneError, or ValueError for what is none."""
        if event.type == "ERROR":
            status = msgspec.json.decode(event.object, type=_Status)
            raise _GoneError if status.code == _GONE else ValueError(f"the watch ended: {status.message or status.code}")
        pod = msgspec.json.decode(event.object, type=Pod)
        if pod.metadata is None or pod.metadata.resourceVersion is None:
            raise ValueError(f"a {event.type} event without a version")
        self.version = pod.metadata.resourceVersion
        if event.type == "BOOKMARK":
            return
        name = _name(pod)
        if event.type == "DELETED":
            self._pods.pop(name, None)
        elif name not in self._pods or not _is_older(pod, self._pods[name]):
            self._pods[name] = pod
        self._changed()


def _name(pod: Pod) -> str:
    """Raises ValueError for an object without one."""
    if pod.metadata is None or not pod.metadata.name:
        raise ValueError("a pod without a name")
    return pod.metadata.name


def _is_older(pod: Pod, than: Pod) -> bool:
    """By resource version, where both are numbers, as the API server's are."""
    one, other = _version(pod), _version(than)
    return one is not None and other is not None and one < other


def _version(pod: Pod) -> int | None:
    text = pod.metadata.resourceVersion if pod.metadata is not None else None
    return int(text) if text is not None and text.isdecimal() else None


def _asked_for_s(error: Exception | None) -> float:
    """The pause that a throttling server asks for."""
    return (retry_after.wait_s(error.response.headers) or 0.0) if isinstance(error, httpx2.HTTPStatusError) else 0.0
