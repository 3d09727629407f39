"""Bundles that are not as they should be: each is named, with the exit code that belongs to it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from heteroscale.bus.log import Record
from heteroscale.contracts import codec
from heteroscale.contracts.decisions import Decision
from heteroscale.contracts.errors import Rejected
from heteroscale.contracts.topics import Topic
from heteroscale.replay import archive, bundle, manifest, verify
from heteroscale.replay.verdict import Outcome, StageName
from support import incidents

BURST = Path(__file__).parent / "bundles" / "burst.tar.zst"


def test_a_flipped_byte_is_a_bad_bundle(burst: Path) -> None:
    """One bit in one topic: the file is named, nothing is replayed."""
    path = burst / "topics" / "signals.v1.jsonl.zst"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(Rejected, match=r"signals\.v1\.jsonl\.zst.*sha256 differs") as caught:
        bundle.open_folder(burst)
    assert "damaged" == caught.value.code


def test_a_flipped_byte_in_an_archive_is_a_bad_bundle(tmp_path: Path) -> None:
    """A .tar.zst that was damaged on its way never reaches a replay."""
    content = bytearray(BURST.read_bytes())
    content[len(content) // 2] ^= 1
    path = tmp_path / "burst.tar.zst"
    path.write_bytes(bytes(content))
    with pytest.raises(Rejected) as caught, archive.opened(path):
        pass
    assert "damaged" == caught.value.code


@pytest.mark.parametrize(("version", "cure"), [(0, "use the release that wrote it"), (2, "upgrade")])
def test_another_format_version_is_refused_with_its_cure(burst: Path, version: int, cure: str) -> None:
    """An old and a newer format are told apart."""
    path = burst / manifest.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))
    with pytest.raises(Rejected, match=cure) as caught:
        bundle.open_folder(burst)
    assert "unknown_version" == caught.value.code


def test_a_folder_without_manifest_is_no_bundle(tmp_path: Path) -> None:
    """The message says how a bundle is made."""
    with pytest.raises(Rejected, match="incident capture"):
        bundle.open_folder(tmp_path)


@pytest.mark.parametrize(
    ("topic", "lost"),
    [(Topic.SIGNALS, range(30, 34)), (Topic.PLACEMENTS, range(40, 44)), (Topic.TELEMETRY, range(60, 70))],
    ids=["signals", "placements", "telemetry"],
)
def test_a_missing_range_is_input_missing_and_no_divergence(burst: Path, tmp_path: Path, topic: Topic, lost: range) -> None:
    """Records that were read then and are not there now: exit code 3, and which."""
    other = incidents.tampered(burst, tmp_path / "other", topic, lambda record: None if record.offset in lost else record)
    verdict = verify.verify(bundle.open_folder(other))
    assert (Outcome.MISSING, 3) == (verdict.outcome, verdict.exit_code)
    assert any(topic.value in f"{gap.place} {gap.what}" for stage in verdict.stages for gap in stage.gaps)


def test_an_unknown_policy_is_not_replayable(burst: Path, tmp_path: Path) -> None:
    """A decision of a law that this build does not have is not called diverged."""

    def newer(record: Record) -> Record:
        decision = codec.decode(Decision, record.value or b"")
        return record._replace(value=codec.encode(msgspec.structs.replace(decision, policy_version=99)))

    other = incidents.tampered(burst, tmp_path / "other", Topic.DECISIONS, newer)
    verdict = verify.verify(bundle.open_folder(other))
    assert (Outcome.NOT_REPLAYABLE, 2) == (verdict.outcome, verdict.exit_code)
    assert "policy 99" in verdict.stage(StageName.DECISIONS).unreplayable[0]


def test_an_unknown_schema_is_not_replayable(burst: Path, tmp_path: Path) -> None:
    """A record whose value this build cannot read is named with its place."""
    other = incidents.tampered(
        burst,
        tmp_path / "other",
        Topic.PLACEMENTS,
        lambda record: record._replace(value=b'{"schema":9}') if record.offset == 5 else record,
    )
    verdict = verify.verify(bundle.open_folder(other))
    assert 2 == verdict.exit_code
    assert any("incident.placements.v1/2@5" in text for stage in verdict.stages for text in stage.unreplayable)


def test_a_record_that_two_stages_need_is_not_replayable_in_both(burst: Path, tmp_path: Path) -> None:
    """A window that cannot be read stops the signals and the decisions with its place, and the placements go on."""
    edit = {5: b'{"service":"chat"}'}
    other = incidents.tampered(
        burst, tmp_path / "other", Topic.SIGNALS, lambda record: record._replace(value=edit.get(record.offset, record.value))
    )
    verdict = verify.verify(bundle.open_folder(other))
    assert 2 == verdict.exit_code
    told = {stage.stage: [text for text in stage.unreplayable if "incident.signals.v1/2@5" in text] for stage in verdict.stages}
    assert {StageName.SIGNALS: 1, StageName.DECISIONS: 1, StageName.PLACEMENTS: 0} == {stage: len(texts) for stage, texts in told.items()}
    assert verdict.stage(StageName.PLACEMENTS).compared


def test_a_partition_that_is_no_number_is_refused(burst: Path) -> None:
    """The manifest is named, and where in it."""
    path = burst / manifest.NAME
    about = json.loads(path.read_text())
    about["topics"]["signals.v1"]["partitions"]["two"] = {"from_offset": 0, "next_offset": 0, "records": 0}
    path.write_text(json.dumps(about))
    with pytest.raises(Rejected, match=r"'two' is no partition number.*signals\.v1"):
        bundle.open_folder(burst)


def test_an_unknown_field_is_read_over(burst: Path, tmp_path: Path) -> None:
    """A newer writer that added a field changes nothing."""
    other = incidents.tampered(
        burst, tmp_path / "other", Topic.DECISIONS, lambda record: record._replace(value=(record.value or b"")[:-1] + b',"colour":"blue"}')
    )
    assert Outcome.IDENTICAL is verify.verify(bundle.open_folder(other)).outcome


def test_another_reason_with_the_same_action_is_told_apart(burst: Path, tmp_path: Path) -> None:
    """Only the detail of a stage differs: not identical, and not diverged either."""

    def reworded(record: Record) -> Record:
        decision = codec.decode(Decision, record.value or b"")
        if record.offset != 20:
            return record
        stages = [msgspec.structs.replace(decision.stages[0], detail="because"), *decision.stages[1:]]
        return record._replace(value=codec.encode(msgspec.structs.replace(decision, stages=stages)))

    verdict = verify.verify(bundle.open_folder(incidents.tampered(burst, tmp_path / "other", Topic.DECISIONS, reworded)))
    assert (Outcome.OTHER_REASON, 1) == (verdict.outcome, verdict.exit_code)


def test_a_state_that_differs_is_shown_by_its_smallest_difference(burst: Path, tmp_path: Path) -> None:
    """A digest alone says little: the fields of the state that differ are listed."""

    def recount(record: Record) -> Record:
        document = json.loads(record.value or b"{}")
        if document.get("law", {}).get("window_end_ms") == decided_ms:
            document["law"]["counters"]["scale_outs"] += 1
        return record._replace(value=json.dumps(document, separators=(",", ":")).encode())

    def other_digest(record: Record) -> Record:
        decision = codec.decode(Decision, record.value or b"")
        if decision.at_ms != decided_ms:
            return record
        return record._replace(value=codec.encode(msgspec.structs.replace(decision, state_digest="0" * 16)))

    decided_ms = codec.decode(Decision, (burst / bundle.DECISIONS).read_bytes().splitlines()[30]).at_ms
    first = incidents.tampered(burst, tmp_path / "one", Topic.DECISION_STATE, recount)
    second = incidents.tampered(first, tmp_path / "two", Topic.DECISIONS, other_digest)
    found = verify.verify(bundle.open_folder(second)).first
    assert ["counters.scale_outs"] == [one.path for one in (found or pytest.fail("identical"))[1].state]
