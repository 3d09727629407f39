"""The watch over pods, against an API over loopback that forgets, hangs up, falls silent and talks nonsense."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import httpx2
import pytest

from heteroscale.runtime import pod_watch
from heteroscale.runtime.pod_watch import PodWatch
from support.fake_cluster import MISCHIEF, FakeCluster

AtEnd = list[Callable[[], Awaitable[None]]]
WITHIN_S = 10.0
LABELS = {"app": "engine"}


class Stage:
    """A cluster, a watch over it, and how often the picture changed."""

    def __init__(self, cluster: FakeCluster, silence_s: float) -> None:
        self.cluster = cluster
        self.changes = 0
        self._client = cluster.client()
        self.watch = PodWatch(self._client, "llm", LABELS, self._changed, silence_s=silence_s)

    def _changed(self) -> None:
        self.changes += 1

    async def names(self) -> set[str]:
        """Pods in the picture."""
        return {pod.metadata.name or "" for pod in await self.watch.pods() if pod.metadata is not None}

    async def until(self, wanted: set[str]) -> None:
        """Wait for a picture."""
        self.cluster.publish()
        async with asyncio.timeout(WITHIN_S):
            while await self.names() != wanted:
                await asyncio.sleep(0.005)

    async def close(self) -> None:
        """End watch and cluster."""
        await self.watch.close()
        await self._client.close()
        await self.cluster.__aexit__()

    def count(self, *, watching: bool) -> int:
        """Lists, or watches, that the server was asked for."""
        return sum(method == ("WATCH" if watching else "GET") for method, _ in self.cluster.calls)


@pytest.fixture
def stage(at_end: AtEnd, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Awaitable[Stage]]:
    """Stages that are quick to try again."""
    monkeypatch.setattr(pod_watch, "PAUSE_FIRST_S", 0.02)

    async def build(silence_s: float = 5.0) -> Stage:
        one = Stage(await FakeCluster().__aenter__(), silence_s)
        at_end.append(one.close)
        return one

    return build


Build = Callable[..., Awaitable[Stage]]


async def test_pods_are_listed_once_and_then_watched(stage: Build) -> None:
    """Each change shows, and is told; looking asks the server nothing."""
    one = await stage()
    one.cluster.add_pod("engine", "a")
    one.cluster.add_pod("other", "x")
    await one.until({"a"})
    one.cluster.add_pod("engine", "b", ready=False)
    await one.until({"a", "b"})
    before = one.changes
    one.cluster.pods["b"]["ready"] = True
    del one.cluster.pods["a"]
    await one.until({"b"})
    assert one.changes > before
    for _ in range(50):
        await one.names()
    assert (1, 1) == (one.count(watching=False), one.count(watching=True))


@pytest.mark.parametrize("mischief", MISCHIEF)
async def test_whatever_becomes_of_a_watch_the_picture_comes_right(stage: Build, mischief: str) -> None:
    """What changed while the stream was broken is there afterwards: taken up from the last version, or listed anew."""
    one = await stage(silence_s=0.3)
    one.cluster.mischief = [mischief]
    one.cluster.add_pod("engine", "a")
    await one.until({"a"})
    one.cluster.add_pod("engine", "b")
    del one.cluster.pods["a"]
    await one.until({"b"})
    listed_again = mischief in {"gone", "gone-event", "nonsense", "no-version", "error-event"}
    async with asyncio.timeout(WITHIN_S):
        while one.count(watching=True) < 2:
            await asyncio.sleep(0.005)
    assert (2 if listed_again else 1) == one.count(watching=False)


async def test_a_version_that_was_compacted_away_is_listed_again(stage: Build) -> None:
    """410 Gone after a break: pods that went meanwhile do not stay in the picture."""
    one = await stage(silence_s=0.2)
    one.cluster.mischief = ["", "silent"]
    for name in ("a", "b"):
        one.cluster.add_pod("engine", name)
    await one.until({"a", "b"})
    one.cluster.mischief = ["silent"]
    one.cluster.break_watches()
    del one.cluster.pods["a"]
    one.cluster.add_pod("engine", "c")
    one.cluster.forget()
    await one.until({"b", "c"})
    assert 2 == one.count(watching=False)


async def test_a_server_that_ends_every_watch_at_once_is_not_hammered(stage: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pauses grow."""
    monkeypatch.setattr(pod_watch, "PAUSE_FIRST_S", 0.05)
    one = await stage()
    one.cluster.mischief = ["ends"] * 100
    one.cluster.add_pod("engine", "a")
    await one.until({"a"})
    await asyncio.sleep(1.0)
    assert one.count(watching=True) <= 6


async def test_what_forbids_the_first_list_is_raised(stage: Build) -> None:
    """There is no picture to show, and the reason is known; once it is allowed, there is one."""
    one = await stage()
    one.cluster.fail = [("GET", "/pods", 403, {})]
    one.cluster.add_pod("engine", "a")
    with pytest.raises(httpx2.HTTPStatusError, match="as told"):
        await one.watch.pods()
    async with asyncio.timeout(WITHIN_S):
        while one.watch.version is None:
            await asyncio.sleep(0.005)
    assert {"a"} == await one.names()


async def test_a_picture_that_is_too_old_is_not_shown(stage: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short break goes unnoticed; one that lasts is an error, since what is shown may long be gone."""
    one = await stage()
    one.cluster.add_pod("engine", "a")
    await one.until({"a"})
    one.cluster.mischief = ["breaks"] * 1_000
    one.cluster.break_watches()
    await asyncio.sleep(0.2)
    assert {"a"} == await one.names()
    monkeypatch.setattr(pod_watch, "STALE_S", 0.1)
    with pytest.raises(httpx2.HTTPError):
        await one.names()
    one.cluster.mischief = []
    async with asyncio.timeout(WITHIN_S):
        while one.watch._error is not None:
            await asyncio.sleep(0.005)
    assert {"a"} == await one.names()


async def test_a_write_of_ones_own_shows_at_once_and_is_not_undone_by_an_older_event(stage: Build) -> None:
    """What the server answered to a patch stands in the picture until something newer comes."""
    one = await stage()
    one.cluster.add_pod("engine", "a")
    await one.until({"a"})
    (pod,) = await one.watch.pods()
    assert pod.metadata is not None
    pod.metadata.labels = {"mine": "yes"}
    pod.metadata.resourceVersion = "1000"
    one.watch.note(pod)
    one.cluster.pods["a"]["ready"] = False
    one.cluster.publish()
    one.cluster.add_pod("engine", "b")
    await one.until({"a", "b"})
    kept = (await one.watch.pods())[0]
    assert kept.metadata is not None
    assert {"mine": "yes"} == kept.metadata.labels
