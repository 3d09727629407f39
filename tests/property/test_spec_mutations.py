"""Whatever is done to a good spec, `parse_spec` answers with a spec or with a refusal that names the field; it never crashes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from heteroscale.contracts import codec
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.specs.parsing import parse_spec
from heteroscale.decision.specs.problems import Problem, SpecInvalid, path_text

GOOD: dict[str, Any] = yaml.safe_load((Path(__file__).parents[1] / "support" / "good_spec.yaml").read_text("utf-8"))


def leaves(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all scalars."""
    if isinstance(value, dict):
        return [leaf for key, inner in value.items() for leaf in leaves(inner, (*path, key))]
    if isinstance(value, list):
        return [leaf for index, inner in enumerate(value) for leaf in leaves(inner, (*path, index))]
    return [path]


def mappings(value: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Paths of all mappings whose keys are ours."""
    found: list[tuple[str | int, ...]] = []
    if isinstance(value, dict):
        if not path or path[-1] not in {"roles", "ratio", "replicas", "parts"}:
            found.append(path)
        found += [at for key, inner in value.items() for at in mappings(inner, (*path, key))]
    elif isinstance(value, list):
        found += [at for index, inner in enumerate(value) for at in mappings(inner, (*path, index))]
    return found


def changed(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The good spec with one value replaced (or a key added)."""
    document = copy.deepcopy(GOOD)
    at: Any = document
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    return document


def problems(document: dict[str, Any]) -> list[Problem]:
    """What is wrong with a document; empty if it makes sense, and then it survives its own bytes."""
    try:
        spec = parse_spec(document, "spec.yaml")
    except SpecInvalid as error:
        return list(error.problems)
    assert spec == codec.decode(ServiceSpec, codec.encode(spec))
    return []


JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-10, 100_000),
    st.floats(),
    st.text(max_size=12),
    st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)
NEVER_VALID = st.sampled_from([{"oops": 1}, [["oops"]], {"a": {"b": None}}])


@given(st.sampled_from(leaves(GOOD)), JUNK)
def test_any_value_anywhere_is_a_spec_or_a_refusal(path: tuple[str | int, ...], value: Any) -> None:
    """No value of any type crashes the parser; what it accepts survives its own bytes."""
    assert all(problem.text for problem in problems(changed(path, value)))


@given(st.sampled_from(leaves(GOOD)), NEVER_VALID)
def test_a_value_of_the_wrong_type_is_refused_at_its_field(path: tuple[str | int, ...], value: Any) -> None:
    """A mapping or a list of lists in place of a scalar is refused, naming the field."""
    assert any(path_text(problem.path).startswith(path_text(path)) for problem in problems(changed(path, value)))


@given(st.sampled_from(mappings(GOOD)), st.text("abcdefghijklmnopqrstuvwxyz", min_size=9, max_size=14))
def test_an_unknown_key_is_refused_wherever_it_stands(path: tuple[str | int, ...], key: str) -> None:
    """Keys that do not exist are named with their path, at every depth."""
    assert path_text((*path, key)) in {path_text(problem.path) for problem in problems(changed((*path, key), 1))}


@given(st.integers(0, 12), st.integers(0, 12), st.integers(0, 24), st.integers(0, 24), st.integers(1, 4), st.integers(1, 4))
def test_a_ratio_is_refused_exactly_when_no_count_fits(p_min: int, p_max: int, d_min: int, d_max: int, p: int, d: int) -> None:
    """The rule about feasible counts agrees with trying every count of the lead."""
    document = copy.deepcopy(GOOD)
    document.pop("schedules")
    document["roles"]["prefill"] |= {"min": p_min, "max": p_max}
    document["roles"]["decode"] |= {"min": d_min, "max": d_max}
    document["ratio"] = {"prefill": p, "decode": d}
    fits = any(d_min <= n <= d_max and p_min <= -(-n * p // d) <= p_max for n in range(25))
    assert fits == (not problems(document))
