"""What is wrong with a spec, said field by field: the path, the value, and what to write instead. All of it at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import msgspec

from heteroscale.contracts.errors import Rejected

Path: TypeAlias = tuple[str | int, ...]

SHOWN_KEYS_MAX: Final = 12


class Problem(msgspec.Struct, frozen=True):
    """One thing that makes no sense. `text` states the value and the cure; `touches` are the other fields it was judged by."""

    path: Path
    text: str
    touches: tuple[Path, ...] = ()

    def __str__(self) -> str:
        return f"{path_text(self.path)}: {self.text}" if self.path else self.text

    def depends_on(self, unread: Iterable[Path]) -> bool:
        """Whether it was judged by a field that could not be read (so it says nothing)."""
        return any(_overlap(mine, other) for other in unread for mine in (self.path, *self.touches))


class SpecInvalid(Rejected):
    """A spec that makes no sense, with everything that is wrong about it."""

    def __init__(self, problems: Sequence[Problem], place: str = "", place_of: Callable[[Path], str] | None = None) -> None:
        self.problems = tuple(problems)
        self.place_of = place_of
        lines = self.lines()
        text = lines[0] if len(lines) == 1 else "\n  ".join([f"{len(lines)} problems", *lines])
        super().__init__("spec", text, "" if place_of and len(lines) == 1 else place)

    def lines(self) -> list[str]:
        """One line a problem, with its own place where that is known."""
        return [f"{self.place_of(problem.path)}: {problem}" if self.place_of else str(problem) for problem in self.problems]


def path_text(path: Path) -> str:
    """`signals[0].target`, as people name a field."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` most likely stands for, or null."""
    candidates = sorted(known)
    plain = _plain(name)
    for candidate in candidates:
        if _plain(candidate) == plain:
            return candidate
    close = difflib.get_close_matches(name.lower(), candidates, n=1, cutoff=0.6)
    if close:
        return close[0]
    inside = [candidate for candidate in candidates if len(candidate) > 2 and _plain(candidate) in plain]  # minReplicas, scaleInCooldown
    return max(inside, key=len, default=None)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`did you mean X?` where something is near, else what there is."""
    names = list(known)
    close = nearest(name, names)
    if close is not None:
        return f"did you mean {close}?"
    shown = ", ".join(sorted(names)[:SHOWN_KEYS_MAX])
    return f"there is {shown}" if names else "nothing may stand here"


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _overlap(one: Path, other: Path) -> bool:
    shared = min(len(one), len(other))
    return one[:shared] == other[:shared]
