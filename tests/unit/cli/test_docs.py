"""The pages about the command line and the spec say what the code says."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from msgspec import inspect

from heteroscale.cli import files, settings_reference
from heteroscale.contracts.spec import ServiceSpec
from heteroscale.decision.specs.parsing import parse_spec

DOCS = Path(__file__).parents[3] / "docs"


def fields(kind: inspect.Type, path: str = "") -> Iterator[str]:
    """Every field of the spec, as the page writes it: `roles.NAME.min`, `signals[].target`."""
    match kind:
        case inspect.StructType():
            for field in kind.fields:
                here = f"{path}.{field.name}" if path else field.name
                yield here
                yield from fields(field.type, here)
        case inspect.UnionType():
            for arm in kind.types:
                yield from fields(arm, path)
        case inspect.ListType():
            yield from fields(kind.item_type, f"{path}[]")
        case inspect.DictType():
            yield from fields(kind.value_type, f"{path}.NAME")
        case _:
            pass


def test_the_page_of_the_command_line_is_generated() -> None:
    """docs/cli.md is what the commands say; `python -m heteroscale.cli.reference > docs/cli.md` writes it."""
    # in a process of its own: click remembers the help option of a command that a test called without its group
    done = subprocess.run([sys.executable, "-m", "heteroscale.cli.reference"], capture_output=True, text=True, check=True)
    assert done.stdout == (DOCS / "cli.md").read_text("utf-8")


def test_the_page_of_the_settings_is_generated() -> None:
    """docs/settings.md is what the settings say; `python -m heteroscale.cli.settings_reference > docs/settings.md` writes it."""
    assert settings_reference.page() == (DOCS / "settings.md").read_text("utf-8")


def test_every_field_of_the_spec_is_on_the_page() -> None:
    """docs/specs.md has each field by its path; fields of a part, a policy or a bound stand in the line of their list."""
    text = (DOCS / "specs.md").read_text("utf-8")
    shown = set(re.findall(r"`([a-z_A-Z.\[\]]+)`", text))
    inner = re.compile(r"\.(parts\.NAME|policies\[\]|roles\.NAME)\.[a-z]+$|^schedules\[\]\.")
    missing = []
    for field in fields(inspect.type_info(ServiceSpec)):
        parts = [name for name in shown if name == field or name.startswith((f"{field}.", f"{field}["))]
        if not parts and not (inner.search(field) and field.rpartition(".")[2] in shown):
            missing.append(field)
    assert [] == missing


def test_defaults_on_the_page_are_those_of_the_code() -> None:
    """Each field with a duration or percentage as its default has it on its line."""
    text = (DOCS / "specs.md").read_text("utf-8")
    for line, default in (
        ("`window.size`", "60s"),
        ("`window.hop`", "15s"),
        ("`window.forget`", "10m"),
        ("`behavior.pending.timeout`", "900s"),
        ("`behavior.scale_in.soft.observe`", "180s"),
        ("`missing_data.escalate_after`", "300s"),
        ("`ready_ratio.tolerance`", "25%"),
    ):
        assert any(row.startswith(f"| {line}") and f"`{default}`" in row for row in text.splitlines()), line


def test_the_example_on_the_page_makes_sense() -> None:
    """The YAML of the page is a valid spec."""
    text = (DOCS / "specs.md").read_text("utf-8")
    example = text.split("```yaml\n", 1)[1].split("```", 1)[0]
    [document] = files.parse_yaml(example, "docs/specs.md")
    assert "chat-70b" == parse_spec(document.document).service
