"""Reading a file of `heteroscale plan` to its typed form, and what is wrong with it, all of it at once."""

from __future__ import annotations

from typing import Any, TypeVar

from msgspec import inspect

from heteroscale.cli import files
from heteroscale.contracts.errors import Rejected
from heteroscale.decision.specs.problems import Path, Problem, SpecInvalid
from heteroscale.decision.specs.reading import Reading

T = TypeVar("T")


class Problems:
    """What is wrong with one file, all of it at once."""

    def __init__(self, located: files.Located) -> None:
        self.located = located
        self.found: list[Problem] = []

    def add(self, path: Path, text: str) -> None:
        """Note a mistake and its cure."""
        self.found.append(Problem(path, text))

    def settle(self) -> None:
        """Raise SpecInvalid if anything was noted."""
        if self.found:
            raise SpecInvalid(self.found, self.located.place, self.located.place_of)


def read(path: str, kind: type[T], key: str) -> tuple[T, Problems]:
    """The one document of a file, whose list is called `key`. Raises Rejected with place and cure."""
    documents = files.read_yaml(path)
    if len(documents) != 1:
        raise Rejected("plan", f"holds {len(documents)} documents; write one with {key}: […]", path)
    problems = Problems(documents[0])
    reading = Reading()
    document: Any = documents[0].document
    value: T = reading.value(inspect.type_info(kind), document, ())
    problems.found.extend(reading.problems)
    problems.settle()
    return value, problems
