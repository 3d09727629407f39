"""A bundle whose records are many times what a replay may hold: every command over it stays small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from heteroscale.bus.log import Record
from heteroscale.contracts.topics import Topic
from heteroscale.replay import archive, bundle, frames
from heteroscale.replay.frames import FrameWriter
from support import incidents

BURST = Path(__file__).parent / "bundles" / "burst.tar.zst"
PADDING = 600_000  # bytes a record
HELD_MB, ROOM_MB = 200, 60  # the records in all, and what may be taken for them
COMMANDS = {
    "identical: 65 decisions, 65 identical": ["replay", "BUNDLE"],
    "chat: exact up to ": ["replay", "BUNDLE", "--set", "behavior.scale_in.stabilization=60s"],
    "2026-01-05T00:06Z chat ": ["explain", "BUNDLE", "--at", "2026-01-05T00:06Z"],
}
RUN = """
import json, resource, sys
from click.testing import CliRunner
from heteroscale.cli.main import cli
def run(path):
    return [CliRunner().invoke(cli, [path if word == "BUNDLE" else word for word in one]).stdout for one in json.loads(sys.argv[3])]
def peak_mb(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
run(sys.argv[1])
before = peak_mb()
told = run(sys.argv[2])
print(json.dumps([peak_mb() - before, told]))
"""


def padded(record: Record) -> Record:
    """The same message from a newer writer that says a great deal more."""
    if record.value is None or not record.value.startswith(b"{"):
        return record
    return record._replace(value=record.value[:-1] + b',"more":"' + b"0123456789abcdef" * (PADDING // 16) + b'"}')


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The burst with every record padded, as an archive."""
    folder = tmp_path_factory.mktemp("large")
    with archive.opened(BURST) as found:
        first = incidents.tampered(found.folder, folder / "first", Topic.SPECS, padded)
        for topic in (
            Topic.SIGNALS,
            Topic.DECISIONS,
            Topic.DECISION_STATE,
            Topic.PLACEMENTS,
            Topic.COMMANDS,
            Topic.ACTUATIONS,
            Topic.FLEET,
        ):
            path = first / found.manifest.topics[topic.value].file
            with FrameWriter(path) as writer:
                for record in found.records(topic):
                    writer.write(bundle.to_line(padded(record)))
                writer.close()
    incidents.marked_anew(first)
    archive.pack(first, folder / "large.tar.zst")
    return folder / "large.tar.zst"


def test_memory_does_not_grow_with_the_bundle(large: Path) -> None:
    """BOUNDED: hundreds of megabytes of records are verified, asked about and explained in a small part of that."""
    with archive.opened(large, check=False) as found:
        size = sum(len(block) for topic in found.manifest.topics.values() for block in frames.blocks(found.folder / topic.file))
    assert size > HELD_MB * 1_000_000
    command = [sys.executable, "-c", RUN, str(BURST), str(large), json.dumps(list(COMMANDS.values()))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    grew_mb, told = json.loads(done.stdout)
    assert [True] * len(COMMANDS) == [text.startswith(first) for first, text in zip(COMMANDS, told, strict=True)], told
    assert grew_mb < ROOM_MB
