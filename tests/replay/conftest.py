"""What tests of replay share: the golden bundles, unpacked."""

from __future__ import annotations

from pathlib import Path

import pytest

from heteroscale.replay import archive


@pytest.fixture
def burst(tmp_path: Path) -> Path:
    """The burst, unpacked."""
    folder = tmp_path / "burst"
    folder.mkdir()
    archive.unpack(Path(__file__).parent / "bundles" / "burst.tar.zst", folder)
    return folder
