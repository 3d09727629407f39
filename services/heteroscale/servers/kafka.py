"""A single-node Apache Kafka (KRaft) on loopback, as a process of this machine. Knows nothing of topics or clients."""

from __future__ import annotations

import base64
import os
import re
import shutil
from importlib import resources
from pathlib import Path

from heteroscale.servers import kafka_jars, launch, probe, process
from heteroscale.servers.failure import ServerFailure
from heteroscale.servers.launch import Place, Report
from heteroscale.servers.ledger import Entry

JAVA_MIN = 17
READY_DEADLINE_S = 60.0
_FORMAT_DEADLINE_S = 60.0
_VERSION = re.compile(r'version "(?:1\.)?(\d+)')


def unavailable() -> str | None:
    """Why Kafka cannot run natively here, or null."""
    java = _java()
    if java is None:
        return "no Java on PATH"
    version = _java_version(java)
    if version < JAVA_MIN:
        return f"Java {version} is too old, Kafka needs {JAVA_MIN}"
    if not kafka_jars.present() and shutil.which("mvn") is None:
        return "no Maven on PATH to fetch Kafka with"
    return None


def start(place: Place, report: Report) -> Entry:
    """Fetch, format if new, start, wait until it answers. Raises ServerFailure; then nothing is left running."""
    java = _java()
    if java is None:
        raise ServerFailure("there is no Java", cure=f"install Java {JAVA_MIN} or newer, or set HETEROSCALE_KAFKA=host:port")
    jars = kafka_jars.ensure(report)
    port = launch.claim_port(place, "--kafka-port")
    settings = _configure(place.folder, port)
    base = [java, "-XX:TieredStopAtLevel=1", f"-Dlog4j2.configurationFile={place.folder / 'log4j2.xml'}", "-cp", f"{jars}/*"]
    if not (place.folder / "data" / "meta.properties").is_file():
        _format([*base, "kafka.tools.StorageTool", "format", "-t", _cluster_id(), "-c", str(settings)])
    address = f"{probe.LOOPBACK}:{port}"
    report(f"starting Kafka {kafka_jars.KAFKA_VERSION} on {address}")
    entry = Entry(name="kafka", how="native", address=address, port=port, data=str(place.folder), owner=place.owner)
    return launch.native(
        entry,
        [*base, "-Xmx512m", "kafka.Kafka", str(settings)],
        lambda: probe.kafka_answers(probe.LOOPBACK, port),
        deadline_s=READY_DEADLINE_S,
    )


def properties(data: Path, port: int, controller_port: int) -> str:
    """Broker settings of a single loopback node that never makes topics by itself."""
    lines = {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{probe.LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "listeners": f"PLAINTEXT://{probe.LOOPBACK}:{port},CONTROLLER://{probe.LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{probe.LOOPBACK}:{port}",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        "delete.topic.enable": "true",
        "num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "offsets.topic.num.partitions": "8",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        "controlled.shutdown.enable": "false",
    }
    return "".join(f"{key}={value}\n" for key, value in lines.items())


def _configure(folder: Path, port: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "log4j2.xml").write_bytes(resources.files(__package__).joinpath("kafka_log4j2.xml").read_bytes())
    settings = folder / "server.properties"
    settings.write_text(properties(folder / "data", port, _controller_port(port)), encoding="utf-8")
    return settings


def _controller_port(broker_port: int) -> int:
    while (port := probe.free_port()) == broker_port:
        pass
    return port


def _cluster_id() -> str:
    return base64.urlsafe_b64encode(os.urandom(16)).decode().rstrip("=")


def _format(argv: list[str]) -> None:
    code, output = process.run(argv, deadline_s=_FORMAT_DEADLINE_S)
    if code != 0:
        raise ServerFailure("Kafka could not format its data folder", cure="`heteroscale servers down --delete-data`", tail=output[-2000:])


def _java() -> str | None:
    home = os.environ.get("JAVA_HOME")
    if home and (Path(home) / "bin" / "java").is_file():
        return str(Path(home) / "bin" / "java")
    return shutil.which("java")


def _java_version(java: str) -> int:
    _, output = process.run([java, "-version"], deadline_s=30.0)
    found = _VERSION.search(output)
    return int(found[1]) if found else 0
