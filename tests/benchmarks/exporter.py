"""What scraping costs: pages a second of one core, first and repeated, and the share of a core of a node agent with 8 engines.

python tests/benchmarks/exporter.py [--seconds 10]
"""
# ruff: noqa: T201 (a benchmark prints)

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from heteroscale.bus.log import Entry
from heteroscale.bus.memory import MemoryLog
from heteroscale.runtime.context import Context
from heteroscale.runtime.health import Health
from heteroscale.telemetry import export, export_targets
from heteroscale.telemetry.export_settings import ExportSettings

PAGES = Path(__file__).parents[1] / "data" / "metrics_pages"
ENGINES = 8
_SERVER = """
import asyncio, sys
body = open(sys.argv[1], "rb").read()
answer = b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body
async def serve(reader, writer):
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            writer.write(answer)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()
async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""


class Sink(MemoryLog):
    """Takes everything."""

    async def append(self, entries: Sequence[Entry]) -> list[int]:
        """At once."""
        return [0] * len(entries)


def parsing(path: Path) -> str:
    """One line: the first page of an engine, and the following ones."""
    body = path.read_bytes()
    station = export.Station(export_targets.target(ExportSettings(), "http://engine"))
    began = time.perf_counter()
    station.read(body, 0, None)
    first = time.perf_counter() - began
    rounds = 50
    began = time.perf_counter()
    for n in range(rounds):
        station.read(body, n, None)
    each = (time.perf_counter() - began) / rounds
    lines = body.count(b"\n")
    cost = f"first {first * 1e3:6.1f} ms   then {each * 1e3:5.2f} ms, {1 / each:6,.0f} pages/s"
    return f"{path.name:44} {len(body) // 1024:4} kB {lines:5} lines   {cost}"


async def agent(page: Path, seconds: float) -> str:
    """The share of a core that 8 engines cost at one page a second each; the server is another process."""
    server = await asyncio.create_subprocess_exec(sys.executable, "-c", _SERVER, str(page), stdout=asyncio.subprocess.PIPE)
    try:
        assert server.stdout is not None
        port = int(await server.stdout.readline())
        urls = ",".join(f"http://127.0.0.1:{port}/engine-{n}/metrics" for n in range(ENGINES))
        context = Context(log=Sink(), prefix="bench", health=Health())
        serving = asyncio.create_task(export.serve(context, ExportSettings(export_urls=urls)))
        await asyncio.sleep(3)
        before = _cpu_s()
        await asyncio.sleep(seconds)
        share = (_cpu_s() - before) / seconds
        context.stop.set()
        await serving
    finally:
        server.terminate()
        await server.wait()
    return f"{ENGINES} engines ({page.name}), a page a second each: {share:.1%} of a core"


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Print the machine and the lines."""
    options = argparse.ArgumentParser()
    options.add_argument("--seconds", type=float, default=10)
    given, _ = options.parse_known_args()
    print(f"exporter: {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    pages = [
        PAGES / name for name in ("vllmcpu0320_scrape1.txt", "sglang_docs_llama31_8b_overloaded.prom", "dynamo161_frontend_scrape1.txt")
    ]
    for page in pages:
        print("  " + parsing(page))
    print("  " + asyncio.run(agent(pages[0], given.seconds)))


if __name__ == "__main__":
    main()
