"""Where the law runs: beside a placement service, or over files."""

from __future__ import annotations

import msgspec


class Setting(msgspec.Struct, frozen=True):
    """`placements`: Placements are to be had. `cold_start`: a first window adopts and holds; else it only adopts.

    `offline`: commands are taken as carried out as the next windows show.
    """

    placements: bool = True
    cold_start: bool = True
    offline: bool = False


LIVE = Setting()
