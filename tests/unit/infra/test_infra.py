"""What is handed to Docker, Prometheus, Grafana and Kubernetes fits what the code says. None of them runs here: files are read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from heteroscale.actuation import kubernetes_targets
from heteroscale.cli.commands.run import SERVICES
from heteroscale.cli.registry import COMMANDS
from heteroscale.runtime.metrics import CATALOGUE, Kind
from heteroscale.servers import docker
from heteroscale.telemetry.export_pods import Pods
from heteroscale.telemetry.export_settings import ExportSettings

ROOT = Path(__file__).parents[3]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
RULES = yaml.safe_load((ROOT / "infra/prometheus/rules.yml").read_text(encoding="utf-8"))
SCRAPE = yaml.safe_load((ROOT / "infra/prometheus/prometheus.yml").read_text(encoding="utf-8"))
DASHBOARDS = sorted((ROOT / "infra/grafana/dashboards").glob("*.json"))
MANIFESTS = {
    path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) for path in sorted((ROOT / "infra/kubernetes").glob("*.yaml"))
}
TARGET_LABELS = {"job", "instance", "service_process", "le"}


def queries() -> Iterator[tuple[str, str]]:
    """Every PromQL expression: where it stands, and itself."""
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
            for target in panel.get("targets", []):
                yield f"{path.stem}: {panel['title']}", target["expr"]


QUERIES = list(queries())


def exposed() -> dict[str, set[str]]:
    """Every series name on a /metrics page, and its labels."""
    names: dict[str, set[str]] = {}
    for metric in CATALOGUE.values():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind is Kind.HISTOGRAM else ("",)
        for suffix in suffixes:
            names[metric.name + suffix] = {*metric.labels}
    return names


@pytest.mark.parametrize(("place", "expression"), QUERIES, ids=[place for place, _ in QUERIES])
def test_queries_use_metrics_and_labels_that_exist(place: str, expression: str) -> None:
    """A renamed metric or label breaks a panel or an alert in silence; here it is loud."""
    known = exposed()
    used = set(re.findall(r"\bheteroscale_[a-z_]+", expression))
    assert used <= set(known), place
    labels = {label.strip() for clause in re.findall(r"\bby \(([^)]*)\)", expression) for label in clause.split(",")}
    labels |= set(re.findall(r'([a-z_]+)\s*(?:=~|!~|!=|=)\s*"', expression))
    assert labels <= TARGET_LABELS.union(*(known[name] for name in used)), place


def test_counters_are_rated_and_gauges_are_not() -> None:
    """A raw counter says nothing, the rate of a gauge is wrong."""
    kinds = {metric.name: metric.kind for metric in CATALOGUE.values()}
    for place, expression in QUERIES:
        rated = set(re.findall(r"(?:rate|increase)\((heteroscale_[a-z_]+)", expression))
        for name in re.findall(r"\bheteroscale_[a-z_]+", expression):
            assert (name in rated) == (kinds.get(name) is not Kind.GAUGE), f"{place}: {name}"


def test_every_service_has_its_metrics_shown() -> None:
    """Each section of the catalogue appears on a dashboard."""
    shown = " ".join(expression for place, expression in QUERIES if ":" in place)
    for part in ("desired_replicas", "signals_", "placement_", "bus_", "dead_letters", "ready", "decide_seconds"):
        assert f"heteroscale_{part}" in shown


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_are_well_formed(path: Path) -> None:
    """Ids differ, panels do not overlap, and each names its data source, unit and legend."""
    panels = json.loads(path.read_text(encoding="utf-8"))["panels"]
    assert len(panels) == len({panel["id"] for panel in panels})
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= cells
        if panel["type"] != "row":
            assert {"prometheus"} == {target["datasource"]["uid"] for target in panel["targets"]}
            assert panel["fieldConfig"]["defaults"]["unit"]
            assert all(target["legendFormat"] for target in panel["targets"])


def test_alerts_say_what_is_wrong_and_what_to_do() -> None:
    """Each has a severity, a summary and a description; commands named there exist."""
    for group in RULES["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in {"page", "ticket"}
            assert rule["annotations"]["summary"]
            for command in re.findall(r"`heteroscale ([a-z-]+)", rule["annotations"]["description"]):
                assert command in COMMANDS, rule["alert"]


def test_every_service_is_scraped() -> None:
    """Under the name that the compose file gives it."""
    targets = {target for job in SCRAPE["scrape_configs"] for static in job["static_configs"] for target in static["targets"]}
    assert {f"{service}:9100" for service in SERVICES} == targets


def test_compose_runs_every_service_and_the_same_servers() -> None:
    """Each service a container of its own; the broker's image is the one that the command line starts."""
    assert {("run", service) for service in SERVICES} <= {tuple(service.get("command", ())) for service in COMPOSE.values()}
    assert (docker.KAFKA_IMAGE, docker.REDIS_IMAGE) == (COMPOSE["kafka"]["image"], COMPOSE["redis"]["image"])
    assert (
        docker.kafka_environment("x:1")["KAFKA_AUTO_CREATE_TOPICS_ENABLE"]
        == COMPOSE["kafka"]["environment"]["KAFKA_AUTO_CREATE_TOPICS_ENABLE"]
    )


def test_compose_waits_for_health() -> None:
    """Everything that lasts has a health check, and nothing starts before what it needs; ports are published on loopback only."""
    for name, service in COMPOSE.items():
        assert "healthcheck" in service, name
        for needed, condition in service.get("depends_on", {}).items():
            assert needed in COMPOSE
            assert condition["condition"] in {"service_healthy", "service_completed_successfully"}
            assert condition["condition"] == "service_completed_successfully" or not COMPOSE[needed]["healthcheck"].get("disable")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name


def test_every_mounted_file_exists() -> None:
    """A missing file would be made as an empty folder by the engine."""
    for service in COMPOSE.values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith("./") or (ROOT / source).exists(), volume


def test_no_image_floats() -> None:
    """`latest` is another program every month."""
    for service in COMPOSE.values():
        name, _, tag = service["image"].partition(":")
        assert name
        assert tag not in {"", "latest"}


def test_redis_loses_nothing_it_acknowledged() -> None:
    """As the native one."""
    settings = dict(
        line.split(maxsplit=1) for line in (ROOT / "infra/redis/redis.conf").read_text().splitlines() if line and line[0] != "#"
    )
    assert ("yes", "always", "noeviction") == (settings["appendonly"], settings["appendfsync"], settings["maxmemory-policy"])


def test_kubernetes_runs_every_service() -> None:
    """One deployment each, ready by /readyz, alive by /healthz, not as root; the kustomization lists every file."""
    deployments = {
        document["metadata"]["name"]: document
        for documents in MANIFESTS.values()
        for document in documents
        if document["kind"] == "Deployment"
    }
    assert set(SERVICES) == set(deployments)
    for name, deployment in deployments.items():
        pod = deployment["spec"]["template"]
        (container,) = pod["spec"]["containers"]
        assert ["run", name] == container["args"]
        assert ("/readyz", "/healthz") == tuple(container[probe]["httpGet"]["path"] for probe in ("readinessProbe", "livenessProbe"))
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        assert deployment["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
    (kustomization,) = MANIFESTS["kustomization.yaml"]
    assert set(MANIFESTS) - {"kustomization.yaml"} == set(kustomization["resources"])


def test_kubernetes_settings_are_settings() -> None:
    """Every variable in the ConfigMap is one that some service reads."""
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "services").rglob("settings.py"))
    config = MANIFESTS["settings.yaml"][0]["data"]
    for variable in config:
        field = variable.removeprefix("HETEROSCALE_").lower()
        assert variable in source or f"\n    {field}: " in source, variable


def test_the_kubernetes_actuator_is_whole(tmp_path: Path) -> None:
    """Its kustomization names what there is, its targets can be read, it runs under the account that has the rights."""
    folder = ROOT / "infra/kubernetes/kubernetes-actuator"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*kustomization["resources"], "kustomization.yaml"])
    config = yaml.safe_load((folder / "targets.yaml").read_text(encoding="utf-8"))
    (tmp_path / "targets.yaml").write_text(config["data"]["targets.yaml"])
    namespaces = {target.namespace for target in kubernetes_targets.load(str(tmp_path / "targets.yaml"))}
    rights = list(yaml.safe_load_all((folder / "rbac.yaml").read_text(encoding="utf-8")))
    assert namespaces == {one["metadata"]["namespace"] for one in rights if one["kind"] == "Role"}
    assert not any("*" in rule["verbs"] + rule["resources"] for one in rights for rule in one.get("rules", []))
    deployment = yaml.safe_load((folder / "deployment.yaml").read_text(encoding="utf-8"))
    account = next(one["metadata"]["name"] for one in rights if one["kind"] == "ServiceAccount")
    assert account == deployment["spec"]["template"]["spec"]["serviceAccountName"]


def test_the_exporter_may_do_what_it_is_told() -> None:
    """Its command line is one that `export` takes, its rights are those of the namespace it names, and no two of it run at once."""
    folder = ROOT / "infra/kubernetes/exporter"
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert sorted(path.name for path in folder.iterdir()) == sorted([*kustomization["resources"], "kustomization.yaml"])
    deployment = yaml.safe_load((folder / "deployment.yaml").read_text(encoding="utf-8"))
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    command, option, pods = container["args"]
    assert ("export", "--pods") == (command, option)
    Pods.parse(pods, ExportSettings())
    rights = list(yaml.safe_load_all((folder / "rbac.yaml").read_text(encoding="utf-8")))
    role = next(one for one in rights if one["kind"] == "Role")
    assert pods.partition("/")[0] == role["metadata"]["namespace"]
    assert [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}] == role["rules"]
    assert {"type": "Recreate"} == deployment["spec"]["strategy"]
