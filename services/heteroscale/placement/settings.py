"""Settings of the placement service: the inventory's address, and how it works."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar

from msgspec import Meta

from heteroscale.runtime.settings import RedisSettings, Switch


class PlacementSettings(RedisSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without a Redis address the inventory lives in this process and dies with it."""

    title: ClassVar[str] = "placement"
    variables: ClassVar[Mapping[str, str]] = {
        **RedisSettings.variables,
        "redis_cluster": "HETEROSCALE_REDIS_CLUSTER",
        "group": "HETEROSCALE_PLACEMENT_GROUP",
        "poll_ms": "HETEROSCALE_PLACEMENT_POLL_MS",
        "backoff_ms_max": "HETEROSCALE_PLACEMENT_BACKOFF_MS_MAX",
        "lease_ms": "HETEROSCALE_PLACEMENT_LEASE_MS",
        "reconcile_ms": "HETEROSCALE_PLACEMENT_RECONCILE_MS",
    }

    redis_cluster: Annotated[Switch, Meta(description="on if the address is a node of a Redis Cluster", examples=["on"])] = Switch.OFF
    group: Annotated[str, Meta(min_length=1, description="the consumer group, below the prefix", examples=["placement"])] = "placement"
    poll_ms: Annotated[  # how soon the service notices the word to stop while nothing comes in
        int, Meta(ge=10, le=10_000, description="limit of one wait for records, ms", examples=["250"])
    ] = 250
    backoff_ms_max: Annotated[  # long enough to spare a server that is coming up
        int, Meta(ge=50, le=60_000, description="longest wait between attempts while something is away, ms", examples=["2000"])
    ] = 2_000
    lease_ms: Annotated[  # advisory only, so its length decides nothing but how long a line in a report stays true
        int, Meta(ge=1_000, le=600_000, description="how long the advisory lease lasts, ms", examples=["15000"])
    ] = 15_000
    reconcile_ms: Annotated[  # it reads the whole inventory, and commands are affirmed once a minute anyway
        int, Meta(ge=100, le=86_400_000, description="how often inventory, log and actuators are compared, ms", examples=["60000"])
    ] = 60_000
