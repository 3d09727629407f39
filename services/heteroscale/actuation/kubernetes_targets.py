"""What the Kubernetes actuator scales for which service and role: a YAML file, checked when it is read. Pure but for that.

targets:
- {service: chat-70b, role: prefill, namespace: llm, kind: Deployment, name: chat-prefill}
- {service: chat-70b, role: decode, namespace: llm, kind: LeaderWorkerSet, name: chat-decode, pin: true}
- {service: moe, role: decode, part: ffn, namespace: llm, api: example.com/v1, kind: Engine, plural: engines, name: moe-ffn}
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import msgspec
import yaml
from msgspec import Meta

from heteroscale.contracts import codec
from heteroscale.contracts.errors import Rejected

DOMAIN: Final = "heteroscale.io"
_KNOWN: Final = {  # kind: (API version, plural)
    "Deployment": ("apps/v1", "deployments"),
    "StatefulSet": ("apps/v1", "statefulsets"),
    "ReplicaSet": ("apps/v1", "replicasets"),
    "LeaderWorkerSet": ("leaderworkerset.x-k8s.io/v1", "leaderworkersets"),
}
_ORDERED: Final = frozenset({"StatefulSet", "LeaderWorkerSet"})
LABEL_CHARACTERS_MAX: Final = 63


class ScaleTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One object with a /scale subresource. A `replica` of it is one instance.

    `group`: only instances of this Deployment Group. `pin`: label the reserved nodes, for a nodeSelector in the pod template.
    """

    service: str
    role: str
    name: Annotated[str, Meta(min_length=1)]
    namespace: str = "default"
    kind: str = "Deployment"
    api: str | None = None
    plural: str | None = None
    part: str | None = None
    group: str | None = None
    pin: bool = False

    @property
    def resource(self) -> tuple[str, str, str]:
        """Group, version and plural."""
        known = _KNOWN.get(self.kind, ("", ""))
        group, _, version = (self.api or known[0]).rpartition("/")
        return group, version, self.plural or known[1]

    @property
    def ordered(self) -> bool:
        """Whether it always ends its highest-numbered replica first, whatever we would like."""
        return self.kind in _ORDERED

    @property
    def node_label(self) -> str:
        """What reserved nodes are labelled with if `pin`."""
        return f"{DOMAIN}/" + ".".join(part for part in (self.service, self.role, self.part, self.group) if part)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.kind}/{self.name}"


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    targets: list[ScaleTarget]


def load(path: str) -> list[ScaleTarget]:
    """The file's targets. Raises Rejected that says what is wrong and what to write."""
    try:
        document = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise Rejected("unreadable", " ".join(str(error).split()), path) from error
    try:
        targets = codec.convert(_File, document).targets
    except Rejected as error:
        raise Rejected("invalid", error.message, path) from error
    check(targets, path)
    return targets


def check(targets: list[ScaleTarget], place: str) -> None:
    """Raises Rejected for an unknown kind, a label that is too long, or two targets for the same instances."""
    seen: dict[tuple[str | None, ...], ScaleTarget] = {}
    objects: dict[str, ScaleTarget] = {}
    for one in targets:
        if not all(one.resource[1:]):
            raise Rejected("kind", f"{one.kind} is not one of {', '.join(_KNOWN)}; give api: GROUP/VERSION and plural", place)
        if one.pin and len(one.node_label.partition("/")[2]) > LABEL_CHARACTERS_MAX:
            raise Rejected("label", f"{one.node_label} is longer than {LABEL_CHARACTERS_MAX} characters; pin cannot be used", place)
        key = (one.service, one.role, one.part, one.group)
        if key in seen or str(one) in objects:
            raise Rejected("twice", f"{one} is there twice, or shares service, role, part and group with {seen.get(key, one)}", place)
        seen[key] = objects[str(one)] = one
