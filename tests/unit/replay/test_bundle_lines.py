"""Lines of a bundle: recorded bytes come back exactly, whatever they are; frames are read one at a time."""

from __future__ import annotations

import json
from pathlib import Path

import cramjam
import pytest
from hypothesis import given
from hypothesis import strategies as st

from heteroscale.bus.log import Record
from heteroscale.contracts.errors import Rejected
from heteroscale.replay import bundle, frames
from heteroscale.replay.frames import FrameWriter

ODD = [None, b"", b"null", b" null ", b"{}\n", b'{"a": 1}', b'{"a":1}', b"\xff\xfe", b"not json", b'"x"', b"1e5", b'{"a":1}\r', b"[1,\n2]"]


@given(
    value=st.one_of(
        st.none(), st.binary(max_size=50), st.sampled_from(ODD), st.text(max_size=20).map(lambda text: json.dumps(text).encode())
    ),
    key=st.one_of(st.none(), st.binary(max_size=10)),
    offset=st.integers(0, 2**62),
)
def test_a_record_comes_back_as_it_was(value: bytes | None, key: bytes | None, offset: int) -> None:
    """Any bytes, tombstones too, and always on one line that is JSON."""
    record = Record("t", 3, offset, 1_700_000_000_000, key, value)
    line = bundle.to_line(record)
    assert record == bundle.from_line(line, "t")
    assert b"\n" not in line
    assert offset == json.loads(line)["offset"]


@pytest.mark.parametrize(
    "value", [b'{"value":' + b"1" * 9_000 + b"}", b'"' + b"x" * 9_000 + b'"', b"\n" * 9_000, b"[" + b' {"value":1},' * 900 + b"0]"]
)
@pytest.mark.parametrize("key", [None, b"chat", b'a,"value":b', b"\xff", b"k" * 3_000])
def test_a_long_record_comes_back_as_it_was(value: bytes, key: bytes | None) -> None:
    """Long values are cut out of their line; nothing in key or value can mislead that."""
    record = Record("t", 3, 7, 1_700_000_000_000, key, value)
    assert record == bundle.from_line(bundle.to_line(record), "t")


def test_json_stands_in_the_line_as_it_is() -> None:
    """People read the value with jq, not through base64; its own spacing is kept."""
    line = bundle.to_line(Record("t", 0, 0, 0, b"k", b'{"b": 1, "a":2.50}'))
    assert b'"value":{"b": 1, "a":2.50}' in line


def test_many_frames_come_back_line_by_line(tmp_path: Path) -> None:
    """Lines that cross a frame's size, and an empty file."""
    path = tmp_path / "x.zst"
    lines = [(f"{number} " * (number % 700)).encode() for number in range(3_000)]
    with FrameWriter(path) as writer:
        for line in lines:
            writer.write(line)
        writer.close()
    assert lines == list(frames.lines(path))
    assert len(list(frames.blocks(path))) > 2
    assert max(map(len, frames.blocks(path))) < 2 * frames.FRAME_BYTES
    with FrameWriter(tmp_path / "empty.zst") as writer:
        writer.close()
    assert [] == list(frames.lines(tmp_path / "empty.zst"))


@pytest.mark.parametrize("size", [0, 1, 200, 300, 70_000, 200_000])
def test_a_file_that_somebody_else_wrote(tmp_path: Path, size: int) -> None:
    """One frame of any header form, a skippable frame before it, runs of one byte."""
    path = tmp_path / "x.zst"
    content = b"a" * size + b"\nb\n"
    skippable = (0x184D2A51).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"xyz"
    path.write_bytes(skippable + bytes(cramjam.zstd.compress(content)))
    assert [b"a" * size, b"b"] == list(frames.lines(path))


@pytest.mark.parametrize("cut", [1, 3, 6, 12, -1])
def test_a_file_that_was_cut_off_is_damaged(tmp_path: Path, cut: int) -> None:
    """It never passes for a shorter one."""
    path = tmp_path / "x.zst"
    path.write_bytes(bytes(cramjam.zstd.compress(bytes(range(256)) * 40))[:cut])
    with pytest.raises(Rejected, match="cannot be decompressed") as caught:
        list(frames.lines(path))
    assert "damaged" == caught.value.code
