"""Wiring of the tests: coroutine tests, real servers by the provider chain, prefixes of their own, the capability table."""

from __future__ import annotations

import asyncio
import inspect
import logging
import signal
from collections.abc import Awaitable, Callable, Generator, Iterator
from contextlib import AsyncExitStack

import pytest
import structlog
from hypothesis import HealthCheck, settings

from heteroscale.bus.log import Log
from support import brokers, capabilities, kube_servers

ASYNC_LIMIT_S = 60.0
AtEnd = list[Callable[[], Awaitable[None]]]
_AT_END = pytest.StashKey[AtEnd]()

# how long an example takes says what else the machine does
settings.register_profile("heteroscale", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("heteroscale")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests, in a loop of their own, within a limit; what they put in `at_end` runs in the same loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    ends = pyfuncitem.stash.get(_AT_END, [])

    async def whole() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(ASYNC_LIMIT_S):
            stack.push_async_callback(_run_all, ends)
            await pyfuncitem.obj(**arguments)

    asyncio.run(whole())
    return True


async def _run_all(ends: AtEnd) -> None:
    while ends:
        await ends.pop()()


def pytest_sessionstart() -> None:
    """Ctrl-C works in what tests start, even where a shell without job control started the tests in the background, deaf to it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that need a real API server come last: it may be building beside the others."""
    items.sort(key=lambda item: item.get_closest_marker("kubernetes") is not None)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Wait for that build, outside of the test's own limit."""
    if item.get_closest_marker("kubernetes") is not None:
        kube_servers.await_build()
    return (yield)


@pytest.fixture(autouse=True)
def _logs_as_they_were() -> Iterator[None]:
    """A test that sets up logging does so for itself alone."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def at_end(request: pytest.FixtureRequest) -> AtEnd:
    """Coroutine functions to call, last first, when a coroutine test is over, in its own loop."""
    ends: AtEnd = []
    request.node.stash[_AT_END] = ends
    return ends


@pytest.fixture(scope="session")
def servers() -> Iterator[brokers.Servers]:
    """What the provider chain gives; started on first use, stopped after the run."""
    found = brokers.Servers()
    yield found
    found.close()


@pytest.fixture
def used() -> dict[str, str]:
    """Addresses of the real servers that this test asked for, by name."""
    return {}


@pytest.fixture
def kafka(servers: brokers.Servers, used: dict[str, str]) -> str:
    """Address of a real Kafka."""
    capability = capabilities.look("kafka", servers.kafka)
    given = servers.given()
    if not capability.available or given is None or given.kafka is None:
        capabilities.missing(capability)
    used["kafka"] = given.kafka
    return given.kafka


@pytest.fixture
def redis_url(servers: brokers.Servers) -> str:
    """Address of a real Redis."""
    capability = capabilities.look("redis", servers.redis)
    given = servers.given()
    if not capability.available or given is None or given.redis is None:
        capabilities.missing(capability)
    return given.redis


@pytest.fixture
def prefix(used: dict[str, str]) -> Iterator[str]:
    """A topic prefix of this test alone; if the test used Kafka, its topics are deleted afterwards."""
    name = brokers.unique_prefix()
    yield name
    if "kafka" in used:
        asyncio.run(brokers.delete_topics(used["kafka"], name))


@pytest.fixture
def kafka_log(kafka: str, prefix: str, at_end: AtEnd) -> Log:
    """A log on real Kafka, for coroutine tests."""
    log = brokers.build_log(kafka, prefix)
    at_end.append(log.close)
    return log


@pytest.fixture
def memory_log(at_end: AtEnd) -> Log:
    """A log in memory, for coroutine tests."""
    log = brokers.build_log(None, "memory")
    at_end.append(log.close)
    return log


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.kafka)])
def log(request: pytest.FixtureRequest) -> Log:
    """Each kind of log in turn, for the behaviour that both must show."""
    found: Log = request.getfixturevalue(f"{request.param}_log")
    return found


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the machine could do for this run."""
    lines = capabilities.table()
    if lines:
        terminalreporter.section("capabilities")
        for line in lines:
            terminalreporter.line(line)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A CI run without real servers has not tested what it says."""
    if capabilities.in_ci() and capabilities.unmet():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
