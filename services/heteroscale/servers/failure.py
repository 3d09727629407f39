"""The one error of this package: a server that could not be had, and what a person can do about it."""

from __future__ import annotations

from heteroscale.contracts.errors import HeteroscaleError


class ServerFailure(HeteroscaleError):
    """`message` says what happened, `cure` what to do, `tail` holds the last log lines where there are any."""

    def __init__(self, message: str, *, cure: str, tail: str = "") -> None:
        text = f"{message}\n  cure: {cure}"
        super().__init__(f"{text}\n  last log lines:\n{tail}" if tail else text)
        self.message = message
        self.cure = cure
        self.tail = tail


class PortTaken(ServerFailure):
    """Somebody else listens where the server was to listen."""
