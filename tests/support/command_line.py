"""Running commands of the command line in this process, on a log in memory that outlives each of them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import orjson
from click.testing import CliRunner, Result

from heteroscale.bus import catalogue
from heteroscale.bus.log import Entry, Log
from heteroscale.bus.memory import MemoryLog
from heteroscale.cli.main import cli
from heteroscale.cli.options import Connection

PREFIX = "t"


class CommandLine:
    """`heteroscale …` with the topics of a prefix in memory."""

    def __init__(self, *, topics: bool = True) -> None:
        self.log = MemoryLog()
        if topics:
            asyncio.run(catalogue.create(self.log, PREFIX))

    def __call__(self, *arguments: str, stdin: str | None = None) -> Result:
        """Run one command; what it printed and its exit code. Errors that are not ours are raised."""

        async def connect(connection: Connection) -> Log:
            del connection
            return self.log

        connection = Connection(given_prefix=PREFIX, connect=connect)
        result = CliRunner(env={"HETEROSCALE_KAFKA": None, "HETEROSCALE_PREFIX": None, "HETEROSCALE_REDIS": None}).invoke(
            cli, list(arguments), obj=connection, input=stdin
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def json(self, *arguments: str, stdin: str | None = None) -> list[Any]:
        """Run one command that must succeed with `--json`; the documents it printed."""
        result = self(*arguments, "--json", stdin=stdin)
        assert 0 == result.exit_code, result.stderr
        return [orjson.loads(line) for line in result.stdout.splitlines()]

    def put(self, entries: Iterable[Entry]) -> None:
        """Append records."""
        asyncio.run(self.log.append(list(entries)))
