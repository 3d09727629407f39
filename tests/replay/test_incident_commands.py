"""`incident`, `replay` and `explain` on the command line: first lines, exit codes, files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from heteroscale.cli.main import cli
from heteroscale.replay import archive, bundle, manifest
from support import incidents

FOLDER = Path(__file__).parent / "bundles"
BURST, DIVERGES = FOLDER / "burst.tar.zst", FOLDER / incidents.DIVERGING


def run(*arguments: object) -> Result:
    """One command."""
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def test_the_first_line_is_the_verdict() -> None:
    """Identical is 0, diverged is 1 and names the decision."""
    done = run("replay", BURST)
    assert 0 == done.exit_code
    assert done.output.startswith("identical: 65 decisions, 65 identical (")
    done = run("replay", DIVERGES)
    assert 1 == done.exit_code
    assert done.output.startswith("diverged at decision 41 (chat ")
    assert "output after.decode.replicas: recorded 2, replayed 1" in done.output


def test_verdicts_as_json() -> None:
    """One document, with every stage."""
    document = json.loads(run("replay", DIVERGES, "--json").output)
    assert ("diverged", ["signals", "decisions", "placements"]) == (document["verdict"], [stage["stage"] for stage in document["stages"]])


def test_a_bad_bundle_is_2_and_missing_input_3(tmp_path: Path) -> None:
    """Nothing there, and a bundle with a hole."""
    done = run("replay", tmp_path / "none")
    assert (2, True) == (done.exit_code, "there is no such bundle" in done.output)
    source = tmp_path / "burst"
    source.mkdir()
    archive.unpack(BURST, source)
    from heteroscale.contracts.topics import Topic  # noqa: PLC0415 - used once

    other = incidents.tampered(source, tmp_path / "other", Topic.SIGNALS, lambda record: None if record.offset == 30 else record)
    done = run("replay", other)
    assert (3, True) == (done.exit_code, done.output.startswith("input missing: "))


def test_exit_code_1_says_diverged_and_nothing_else(tmp_path: Path) -> None:
    """A log that cannot be reached, a page that cannot be written, no bundle at all: 2, with what to do."""
    span = ("--from", "2026-01-05T00:00Z", "--to", "2026-01-05T01:00Z")
    done = run("replay", *span, "--kafka", "127.0.0.1:1")
    assert (2, True) == (done.exit_code, "heteroscale doctor" in done.output)
    done = run("replay", BURST, "--report", tmp_path / "none" / "x.html")
    assert (2, True) == (done.exit_code, "No such file or directory" in done.output)
    assert (2, True) == ((done := run("replay")).exit_code, "--from INSTANT --to INSTANT" in done.output)


def test_only_what_is_in_the_bundle_can_be_asked_about() -> None:
    """A service or an instant that the bundle does not have is refused with what it has; --diff of nothing is said to be that."""
    done = run("replay", BURST, "--service", "chta")
    assert (2, True) == (done.exit_code, "it has chat" in done.output)
    done = run("explain", BURST, "--at", "2026-02-01T00:00Z")
    assert (2, True) == (done.exit_code, "is after this bundle, which ends at" in done.output)
    done = run("replay", BURST, "--service", "chat", "--diff")
    assert (0, True) == (done.exit_code, "give one by --set" in done.stderr)


def test_an_archive_is_never_written_over(tmp_path: Path) -> None:
    """It may be the only one there is."""
    (tmp_path / "inc.tar.zst").write_bytes(b"an incident")
    done = run("incident", "capture", "--around", "2026-01-05T00:00Z", "-o", tmp_path / "inc.tar.zst", "--kafka", "127.0.0.1:1")
    assert (2, True) == (done.exit_code, "exists already" in done.output)


def test_a_counterfactual_prints_its_horizon_and_table(tmp_path: Path) -> None:
    """Exact up to, modelled after; --diff lists; the report is one file."""
    done = run("replay", BURST, "--set", "behavior.scale_in.stabilization=60s", "--diff", "--report", tmp_path / "out.html")
    assert 0 == done.exit_code
    assert "the first changed action (the horizon)" in done.output
    assert "GPU-hours commanded" in done.output
    assert "    + scale-in (demand): " in done.output
    assert (tmp_path / "out.html").read_text().startswith("<!doctype html>")


def test_an_override_that_makes_no_sense_is_2() -> None:
    """With the nearest key."""
    done = run("replay", BURST, "--set", "behavior.scale_in.cooldwn=30s")
    assert (2, True) == (done.exit_code, "did you mean cooldown?" in done.output)


def test_explain_by_time_of_day_and_why_not() -> None:
    """A time alone means the bundle's day; --why-not asks the law."""
    done = run("explain", BURST, "--at", "23:55:30")
    assert 0 == done.exit_code, done.output
    assert "Where it came from" in done.output
    assert "kcat -C -b $HETEROSCALE_KAFKA -t incident.decisions.v1 -p 2 -o " in done.output
    done = run("explain", BURST, "--at", "23:55:30", "--why-not", "scale-out")
    assert "it would have been scale-out with demand at or above " in done.output
    assert 2 == run("explain", BURST).exit_code
    assert 2 == run("explain", BURST, "--at", "12:00").exit_code


def test_show_lists_what_is_held_and_the_moves() -> None:
    """Topics with their records; every move in the window."""
    done = run("incident", "show", BURST)
    assert "  signals.v1: 65 records" in done.output
    assert "scale-out (demand): decode 1 → 2, prefill 2 → 4" in done.output


@pytest.mark.parametrize("shrink", [False, True])
def test_to_test_writes_a_test_that_passes(tmp_path: Path, *, shrink: bool) -> None:
    """The module expects what the bundle gives; shrunk, it is a handful of records that still diverge at the same decision."""
    done = run("incident", "to-test", DIVERGES, "-o", tmp_path / "inc-1", *(["--shrink"] if shrink else []))
    assert done.output.startswith("diverged in decisions at chat 2026-01-04T23:56Z with "), done.output
    held = bundle.open_folder(tmp_path / "inc-1" / "bundle").manifest
    records = sum(part.records for part in held.topics.values())
    assert records < 20 if shrink else records == 494
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path / "inc-1" / "test_inc_1.py")]
    assert 0 == subprocess.run(command, capture_output=True, check=False, cwd=tmp_path).returncode


def test_a_test_is_written_over_nothing(tmp_path: Path) -> None:
    """Neither over a folder that holds something nor over a file."""
    (tmp_path / "file").write_text("mine")
    for target in (tmp_path, tmp_path / "file"):
        done = run("incident", "to-test", BURST, "-o", target)
        assert (2, True) == (done.exit_code, "exists already and is not an empty directory" in done.output)


def test_there_is_nothing_to_shrink_in_an_identical_bundle(tmp_path: Path) -> None:
    """It says so."""
    done = run("incident", "to-test", BURST, "--shrink", "-o", tmp_path / "x")
    assert (2, True) == (done.exit_code, "nothing can be shrunk towards" in done.output)


def test_export_to_parquet(tmp_path: Path) -> None:
    """A row a record, plain fields as columns."""
    parquet = pytest.importorskip("pyarrow.parquet")
    done = run("incident", "export", BURST, "--topic", "decisions.v1", "--parquet", tmp_path / "d.parquet")
    table = parquet.read_table(tmp_path / "d.parquet")
    assert "65 rows" in done.output
    assert (65, {"chat"}) == (table.num_rows, set(table.column("service").to_pylist()))
    assert {"partition", "offset", "timestamp_ms", "action", "reason", "after"} <= set(table.column_names)


def test_an_archive_is_the_folder(tmp_path: Path) -> None:
    """Packed twice it is the same bytes; unpacked it holds the same files."""
    folder = tmp_path / "a"
    folder.mkdir()
    archive.unpack(BURST, folder)
    archive.pack(folder, tmp_path / "b.tar.zst")
    assert BURST.read_bytes() == (tmp_path / "b.tar.zst").read_bytes()
    assert manifest.read((folder / "manifest.json").read_bytes(), "") == bundle.open_folder(folder).manifest
