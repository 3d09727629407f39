"""What commands over incidents share: the window asked for, opening a bundle, capturing one for as long as a command runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from heteroscale.cli.options import connection_of, run_async
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import Duration, Instant
from heteroscale.replay import archive, capture
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.manifest import Manifest, Span


def span_of(around: Instant | None, window: Duration | None, since: Instant | None, until: Instant | None) -> Span:
    """`--around T --window D`, or `--from --to`. Raises Rejected (`window`) that says what to write."""
    if around is not None and since is None and until is None:
        half = (window or Duration(30 * 60_000)).ms // 2
        return Span(from_ms=max(0, around.ms - half), to_ms=around.ms + half)
    if around is None and window is None and since is not None and until is not None:
        if since.ms >= until.ms:
            raise Rejected("window", f"--from {since} is not before --to {until}", "--from")
        return Span(from_ms=since.ms, to_ms=until.ms)
    raise Rejected("window", "give --around INSTANT (and --window 30m), or --from INSTANT --to INSTANT", "window")


class Progress:
    """One line on stderr that is written over, where somebody is looking."""

    def __init__(self) -> None:
        self._on = sys.stderr.isatty()

    def __call__(self, what: str, records: int) -> None:
        """So far."""
        if self._on:
            click.echo(f"\r\x1b[K{what}: {records:,}", nl=False, err=True)

    def done(self) -> None:
        """Clear the line."""
        if self._on:
            click.echo("\r\x1b[K", nl=False, err=True)


def capture_to(wanted: capture.Wanted, folder: Path) -> Manifest:
    """Capture from the connection of the running command into a folder."""

    async def work() -> Manifest:
        progress = Progress()
        try:
            async with connection_of().log() as log:
                return await capture.capture(log, wanted, folder, progress)
        finally:
            progress.done()

    return run_async(work())


@contextmanager
def bundle_or_log(path: Path | None, span: tuple[Instant | None, Instant | None], services: Sequence[str]) -> Iterator[Bundle]:
    """A bundle on disk, or one captured from the log for as long as it is used."""
    since, until = span
    if path is not None:
        if since is not None or until is not None:
            raise Rejected("window", "--from and --to read the log; a bundle has its own window. Give one or the other", "--from")
        with archive.opened(path) as found:
            yield found.of(services) if services else found
        return
    if since is None or until is None:
        raise Rejected("window", "give a bundle, or --from INSTANT --to INSTANT to read the log", "replay")
    wanted = capture.Wanted(connection_of().prefix, span_of(None, None, since, until), services)
    with TemporaryDirectory(prefix="heteroscale-replay-") as own:
        folder = Path(own) / "bundle"
        capture_to(wanted, folder)
        with archive.opened(folder, check=False) as found:
            yield found
