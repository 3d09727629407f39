"""`heteroscale replay`: an incident through the live code again, as it was or as it might have been."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec

from heteroscale.cli import bundles, output, whatif_text
from heteroscale.cli.durations import INSTANT
from heteroscale.cli.options import connection_options, json_option
from heteroscale.contracts.errors import Rejected, Retryable
from heteroscale.contracts.units import Instant
from heteroscale.replay import decision_stage, overrides, report, verdict, verify, whatif
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.decider import Decider, Ours, Theirs
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.verdict import Outcome, StageName, StageResult
from heteroscale.runtime.clock import SYSTEM

NOTHING = whatif.Case()


@click.command(
    epilog="""\b
Examples:
  heteroscale replay inc-142/
  heteroscale replay inc-142/ --set behavior.scale_in.cooldown=30s --diff
  heteroscale replay inc-142/ --policy path/to/other/checkout
  heteroscale replay inc-142/ --without srv1101
  heteroscale replay inc-142/ --report out.html
  heteroscale replay --from 2026-11-22T17:00Z --to 2026-11-22T18:00Z --service chat-70b

\b
Exit codes: 0 identical (or a counterfactual was computed), 1 diverged, 2 bad input or not replayable, 3 input missing.""",
)
@click.argument("bundle", required=False, type=click.Path(path_type=Path))
@click.option("--from", "since", type=INSTANT, help="Read the log from here, without a bundle.")
@click.option("--to", "until", type=INSTANT, help="Up to here.")
@click.option("--service", "-s", "services", multiple=True, help="Only this service; may repeat.")
@click.option(
    "--set", "texts", multiple=True, metavar="[SERVICE:]PATH=VALUE", help="What if this field of the spec had been so; may repeat."
)
@click.option(
    "--policy", type=click.Path(exists=True, file_okay=False, path_type=Path), help="What would this other checkout have decided."
)
@click.option("--without", multiple=True, metavar="NODE|INSTANCE", help="What if these had said nothing; may repeat.")
@click.option("--diff", is_flag=True, help="List the decisions that would have been other ones.")
@click.option("--report", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write one self-contained HTML page.")
@click.option("--restart-every", type=click.IntRange(min=1), hidden=True, help="Forget all memory at every n-th step.")
@connection_options
@json_option
@click.pass_context
def replay(  # noqa: PLR0913, PLR0917 - one parameter an option
    ctx: click.Context,
    bundle: Path | None,
    since: Instant | None,
    until: Instant | None,
    services: tuple[str, ...],
    texts: tuple[str, ...],
    policy: Path | None,
    without: tuple[str, ...],
    page: Path | None,
    restart_every: int | None,
    *,
    diff: bool,
    as_json: bool,
) -> None:
    """Replay an incident through the live cores and say whether every window, decision and placement comes out the same.

    With --set, --policy or --without: what would have been decided instead, exact up to the first changed action, modelled
    and marked so beyond it. Nothing is ever written to a topic or an inventory.
    """
    case = _case(texts, policy, without)
    if diff and case is NOTHING:
        output.note("note: --diff compares with another course; give one by --set, --policy or --without")
    with _exit_1_says_diverged(), bundles.bundle_or_log(bundle, (since, until), services) as found:
        answers = None
        if page is not None:
            with _steps_shown() as watch:
                text, answers = report.page(Recorded(found), case, title=_title(texts, policy, without), watch=watch)
            page.write_text(text)
        code = 0 if case is not NOTHING else _verify(found, restart_every, as_json=as_json)
        if case is not NOTHING:
            _ask(found, case, answers, diff=diff, as_json=as_json)
        if page is not None:
            output.note(f"report: {page}")
    ctx.exit(code)


@contextmanager
def _exit_1_says_diverged() -> Iterator[None]:
    """And nothing else: a log that is away or a file that cannot be written is exit code 2 here."""
    try:
        yield
    except Retryable as error:
        raise Rejected("unreachable", f"{error} (try again, or see what is reachable: heteroscale doctor)") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        raise Rejected("refused", error.strerror or str(error), str(error.filename or "")) from error


def _case(texts: tuple[str, ...], policy: Path | None, without: tuple[str, ...]) -> whatif.Case:
    if not texts and policy is None and not without:
        return NOTHING

    def decider() -> Decider:
        return Ours() if policy is None else Theirs(policy)

    return whatif.Case([overrides.parse(text) for text in texts], without, decider)


def _title(texts: tuple[str, ...], policy: Path | None, without: tuple[str, ...]) -> str:
    """The case in words; empty for none."""
    parts = [*texts, *([f"policy {policy}"] if policy is not None else []), *(f"without {name}" for name in without)]
    return ", ".join(parts)


@contextmanager
def _steps_shown() -> Iterator[whatif.Watch]:
    """Progress of a counterfactual, a count of its decisions."""
    progress, numbers = bundles.Progress(), itertools.count(1)
    try:
        yield lambda _step: progress("decisions", next(numbers))
    finally:
        progress.done()


def _verify(found: Bundle, restart_every: int | None, *, as_json: bool) -> int:
    began_s = SYSTEM.monotonic_s()
    progress = bundles.Progress()
    try:
        judged = verify.verify(found, restart_every=restart_every, progress=lambda stage, number: progress(stage.value, number))
    except Rejected as error:
        if error.code != "unreadable":
            raise
        raise Rejected("not_replayable", error.message, error.place) from error
    finally:
        progress.done()
    took_s = SYSTEM.monotonic_s() - began_s
    if as_json:
        output.emit(verify.document(judged, took_s))
        return judged.exit_code
    click.echo(verdict.headline(judged, took_s))
    for line in verdict.lines(judged):
        click.echo(line)
    return judged.exit_code


def _ask(found: Bundle, case: whatif.Case, known: Sequence[whatif.Answer] | None, *, diff: bool, as_json: bool) -> None:
    recorded = Recorded(found)
    base = decision_stage.verify(recorded, StageResult(StageName.DECISIONS))
    if base.outcome is not Outcome.IDENTICAL:
        where = next(iter(base.unreplayable), "its input is not whole" if base.first is None else base.first.what)
        output.note(f"note: the recording itself is {base.outcome.value} under this build ({where}); differences may come from there")
    with _steps_shown() as watch:
        answers = whatif.ask(recorded, case, watch) if known is None else known
    if as_json:
        for answer in answers:
            output.emit(msgspec.to_builtins(answer))
        return
    for line in whatif_text.lines(answers, diff=diff):
        click.echo(line)
