"""Settings of the signals service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from heteroscale.runtime.settings import Switch


class SignalsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a signals worker reads, ticks and commits."""

    title: ClassVar[str] = "signals"
    variables: ClassVar[Mapping[str, str]] = {
        "ticker": "HETEROSCALE_TICKER",
        "poll_ms": "HETEROSCALE_SIGNALS_POLL_MS",
        "commit_every_ms": "HETEROSCALE_SIGNALS_COMMIT_EVERY_MS",
        "data_dir": "HETEROSCALE_SIGNALS_DATA_DIR",
        "records_max": "HETEROSCALE_SIGNALS_RECORDS_MAX",
    }

    ticker: Annotated[  # off where a simulator drives time
        Switch, Meta(description="on: write a tick a second to each partition held; off: somebody else does", examples=["on"])
    ] = Switch.ON
    poll_ms: Annotated[  # only how soon a stop is noticed: records are handed out as they come
        int, Meta(ge=1, le=10_000, description="longest wait for records, ms", examples=["250"])
    ] = 250
    commit_every_ms: Annotated[  # commits are minutes behind anyway; this bounds only what is re-read on top
        int, Meta(ge=100, le=600_000, description="time between commits, ms", examples=["5000"])
    ] = 5_000
    records_max: Annotated[  # bounds what is in flight between the broker and the windows
        int, Meta(ge=1, le=100_000, description="records taken in one go", examples=["2000"])
    ] = 2_000
    data_dir: Annotated[
        str | None,
        Meta(description="directory of the Faust worker; none: one of its own that goes with it", examples=["/var/lib/heteroscale"]),
    ] = None
