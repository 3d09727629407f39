"""What a process tells over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from heteroscale.contracts.errors import Rejected
from heteroscale.runtime import metrics
from heteroscale.runtime.health import Health
from heteroscale.runtime.http import HttpServer
from heteroscale.runtime.metrics import Metrics


async def request(port: int, head: str) -> tuple[int, str]:
    """Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}\r\nHost: x\r\n\r\n".encode())
    answer = (await reader.read()).decode()
    writer.close()
    await writer.wait_closed()
    top, _, body = answer.partition("\r\n\r\n")
    return int(top.split(" ")[1]), body


async def test_readiness_says_what_is_awaited() -> None:
    """/healthz is about being alive; /readyz is 503 with the conditions that do not hold, then 200."""
    health = Health()
    server = HttpServer(health, Metrics())
    port = await server.start("127.0.0.1", 0)
    health.waiting("kafka", "Kafka at k:9092")
    assert (200, "ok\n") == await request(port, "GET /healthz HTTP/1.1")
    assert (503, '{"ready":false,"waiting":{"kafka":"Kafka at k:9092"}}\n') == await request(port, "GET /readyz HTTP/1.1")
    health.holds("kafka")
    assert (200, '{"ready":true,"waiting":{}}\n') == await request(port, "GET /readyz HTTP/1.1")
    await server.close()


async def test_metrics_and_registered_documents_are_served() -> None:
    """/metrics is the registry's page; a document gets the query, and its Rejected is a 400, its failure a 500, never the process's end."""
    registry = Metrics()
    registry.add(metrics.TICKS, 2)

    def answer(query: Mapping[str, str]) -> object:
        if query.get("service") is None:
            raise Rejected("service", "name a service: ?service=NAME")
        return {"service": query["service"], "half": 1 / int(query.get("by", "2"))}

    server = HttpServer(Health(), registry, {"/state": answer})
    port = await server.start("127.0.0.1", 0)
    status, page = await request(port, "GET /metrics HTTP/1.1")
    assert (200, True) == (status, "heteroscale_ticks_total 2.0" in page)
    assert (200, '{"service":"chat","half":0.5}\n') == await request(port, "GET /state?service=chat HTTP/1.1")
    assert (400, "name a service: ?service=NAME\n") == await request(port, "GET /state HTTP/1.1")
    assert 500 == (await request(port, "GET /state?service=a&by=0 HTTP/1.1"))[0]
    assert (200, "") == await request(port, "HEAD /metrics HTTP/1.1")
    await server.close()


@pytest.mark.parametrize(
    ("head", "status"),
    [("POST /metrics HTTP/1.1", 405), ("GET /nowhere HTTP/1.1", 404), ("nonsense", 400), ("GET  /healthz HTTP/1.1", 400)],
)
async def test_what_it_does_not_serve_is_refused(head: str, status: int) -> None:
    """Other methods, other paths and what is not HTTP."""
    server = HttpServer(Health(), Metrics())
    port = await server.start("127.0.0.1", 0)
    assert status == (await request(port, head))[0]
    await server.close()


async def test_a_port_in_use_is_refused_with_the_cure() -> None:
    """The message names the address and the variable to set."""
    first, second = HttpServer(Health(), Metrics()), HttpServer(Health(), Metrics())
    port = await first.start("127.0.0.1", 0)
    with pytest.raises(Rejected, match=f"127.0.0.1:{port}.*HETEROSCALE_HTTP_PORT=0"):
        await second.start("127.0.0.1", port)
    await first.close()
