"""Settings of the exporter."""

from __future__ import annotations

from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta


class ExportSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which engines, how often, and what their pages do not say."""

    title: ClassVar[str] = "export"

    export_urls: Annotated[str | None, Meta(description="engines, comma-separated", examples=["http://10.0.0.7:8000/metrics"])] = None
    export_file: Annotated[str | None, Meta(description="a YAML file of targets, read again when it changes", examples=["t.yaml"])] = None
    export_dns: Annotated[str | None, Meta(description="HOST:PORT whose every address is an engine", examples=["decode.llm.svc:8000"])] = (
        None
    )
    export_pods: Annotated[  # needs the extra `kubernetes`
        str | None, Meta(description="NAMESPACE/SELECTOR:PORT, Kubernetes pods by label", examples=["llm/app=chat-decode:8000"])
    ] = None
    export_service: Annotated[str, Meta(min_length=1, description="the service they belong to", examples=["chat-70b"])] = "default"
    export_role: Annotated[str, Meta(min_length=1, description="their role; a frontend's is always `frontend`", examples=["decode"])] = (
        "decode"
    )
    export_engine: Annotated[str, Meta(description="auto, or whose pages they are", examples=["vllm"])] = "auto"
    export_node: Annotated[str | None, Meta(description="the node they run on", examples=["n17"])] = None
    export_gpu_type: Annotated[str | None, Meta(description="the GPU type they run on", examples=["H20"])] = None
    export_gpus: Annotated[Annotated[int, Meta(ge=1)] | None, Meta(description="GPUs of each", examples=["8"])] = None
    export_dcgm: Annotated[
        str | None,
        Meta(description="the DCGM exporter of their node; {host} is the node's address", examples=["http://{host}:9400/metrics"]),
    ] = None
    export_every_ms: Annotated[  # a tenth of the smallest sensible window hop
        int, Meta(ge=100, le=600_000, description="how often a page is fetched, ms", examples=["1000"])
    ] = 1_000
    export_timeout_ms: Annotated[  # a page that takes longer belongs to the next period
        int, Meta(ge=50, le=600_000, description="limit of one fetch from connecting to the last byte, ms", examples=["800"])
    ] = 800
    export_page_bytes_max: Annotated[  # ten times the largest page we know
        int, Meta(ge=1_024, le=1_073_741_824, description="a larger page is not read", examples=["2097152"])
    ] = 2 * 1024 * 1024
    export_source: Annotated[str, Meta(description="this agent's name in its records", examples=["agent-n17"])] = "exporter"
