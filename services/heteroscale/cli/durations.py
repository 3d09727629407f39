"""Durations and instants as option values."""

from __future__ import annotations

import click

from heteroscale.contracts.units import Duration, Instant


class DurationType(click.ParamType):
    """`90s`, `10m`, `2h`."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Duration:
        """Read it; the message says what to write."""
        if isinstance(value, Duration):
            return value
        try:
            return Duration.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class InstantType(click.ParamType):
    """`2026-12-01T00:00Z`."""

    name = "instant"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Instant:
        """Read it; the message says what to write."""
        if isinstance(value, Instant):
            return value
        try:
            return Instant.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = DurationType()
INSTANT = InstantType()
