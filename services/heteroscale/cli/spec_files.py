"""Spec files: every YAML document in them as a spec that makes sense, with the line of each field in messages."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from heteroscale.cli import files
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.specs import validation
from heteroscale.decision.specs.parsing import parse_with_source
from heteroscale.decision.specs.problems import SpecInvalid
from heteroscale.decision.specs.reading import Reading


class LoadedSpec(NamedTuple):
    """A spec, where it stood, and what its document itself stated."""

    spec: ServiceSpec
    located: files.Located
    reading: Reading


class Loaded(NamedTuple):
    """What a set of files holds: the specs that make sense, and what is wrong with the others."""

    specs: list[LoadedSpec]
    refused: list[Rejected]


def load(paths: Iterable[str | Path]) -> Loaded:
    """All specs of some files. Nothing is raised: what is wrong stands in `refused`, in the order of the files."""
    specs: list[LoadedSpec] = []
    refused: list[Rejected] = []
    for path in paths:
        try:
            documents = files.read_yaml(path)
            if not documents:
                raise Rejected("spec", "holds no spec; see heteroscale validate --help for one", str(path))  # noqa: TRY301 (one list for all)
        except Rejected as error:
            refused.append(error)
            continue
        for located in documents:
            try:
                spec, reading = parse_with_source(located.document, located.place, located.place_of)
                specs.append(LoadedSpec(spec, located, reading))
            except SpecInvalid as error:
                refused.append(error)
    for index, problem in validation.check_together([(loaded.located.place, loaded.spec) for loaded in specs]):
        located = specs[index].located
        refused.append(SpecInvalid([problem], located.place, located.place_of))
    return Loaded(specs, refused)


def read_specs(paths: Iterable[str | Path]) -> list[ServiceSpec]:
    """All specs of some files. Raises Rejected with everything that is wrong in any of them."""
    return [loaded.spec for loaded in load_sound(paths)]


def load_sound(paths: Iterable[str | Path]) -> list[LoadedSpec]:
    """As `read_specs`, with where each stood. Raises Rejected."""
    loaded = load(paths)
    if len(loaded.refused) == 1:
        raise loaded.refused[0]
    if loaded.refused:
        raise Rejected("spec", "\n  ".join([f"{len(loaded.refused)} specs make no sense", *(str(error) for error in loaded.refused)]))
    return loaded.specs
