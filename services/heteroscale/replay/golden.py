"""A bundle as a golden test: the bundle beside a pytest module that expects of it what it gives now."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

import msgspec

from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.units import instant_text
from heteroscale.replay import bundle as bundles
from heteroscale.replay import shrink as shrinking
from heteroscale.replay import verify
from heteroscale.replay.bundle import Bundle
from heteroscale.replay.manifest import TopicPart
from heteroscale.replay.verdict import Outcome, Verdict

FOLDER: Final = "bundle"
TEST: Final = '''"""{about}"""

from pathlib import Path

from heteroscale.replay import bundle, verify
from heteroscale.replay.shrink import mark_of


def test_{name}() -> None:
    """{expects}"""
    verdict = verify.verify(bundle.open_folder(Path(__file__).parent / "{folder}"))
    assert ({outcome!r}, {mark!r}) == (verdict.outcome.value, mark_of(verdict))
'''


class Made(msgspec.Struct, frozen=True):
    """What was written."""

    test: str
    expected: str
    records_before: int
    records: int


def to_test(source: Bundle, target: Path, *, shrink: bool, progress: Callable[[str, int], None] = lambda _what, _number: None) -> Made:
    """Write bundle and test. Raises Rejected (`identical`: nothing to shrink towards, `exists`, `missing`)."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise Rejected("exists", "exists already and is not an empty directory; name another with -o", str(target))
    found = verify.verify(source, progress=lambda stage, number: progress(stage.value, number))
    if found.outcome in {Outcome.MISSING, Outcome.NOT_REPLAYABLE}:
        raise Rejected("missing", f"the bundle is {found.outcome.value}, so a test could not tell anything", str(source.folder))
    mark = shrinking.mark_of(found)
    if shrink and mark is None:
        raise Rejected("identical", "the bundle verifies as identical, so nothing can be shrunk towards; leave --shrink out", str(target))
    target.mkdir(parents=True, exist_ok=True)
    cut = (
        shrinking.shrink(source, mark, lambda number: progress("parts tried", number))
        if shrink and mark is not None
        else shrinking.everything(source)
    )
    made = shrinking.write(source, cut, target / FOLDER)
    after = verify.verify(bundles.open_folder(target / FOLDER))
    name = re.sub(r"\W+", "_", target.name.strip("/")).strip("_").lower() or "incident"
    path = target / f"test_{name}.py"
    path.write_text(_module(source, after, name))
    return Made(str(path), _expected(after), _records(source.manifest.topics.values()), _records(made.topics.values()))


def _records(parts: Iterable[TopicPart]) -> int:
    return sum(part.records for part in parts)


def _module(source: Bundle, found: Verdict, name: str) -> str:
    services = ", ".join(source.manifest.services)
    about = f"An incident of {services} from {instant_text(source.manifest.window.from_ms)}, recorded under {source.prefix}."
    mark = shrinking.mark_of(found)
    plain = None if mark is None else (mark[0].value, mark[1], mark[2])
    return TEST.format(
        about=about, name=name, folder=FOLDER, outcome=found.outcome.value, mark=plain, expects=f"Replays as: {_expected(found)}."
    )


def _expected(found: Verdict) -> str:
    mark = shrinking.mark_of(found)
    if mark is None:
        return found.outcome.value
    return f"{found.outcome.value} in {mark[0].value} at {mark[1]} {instant_text(mark[2])}"
