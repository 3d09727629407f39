"""Kafka and Redis as containers, where a Docker engine answers. Ports are published on loopback only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

from heteroscale.servers import launch, ledger, probe, process
from heteroscale.servers.failure import ServerFailure
from heteroscale.servers.kafka_jars import KAFKA_VERSION
from heteroscale.servers.launch import Place, Report
from heteroscale.servers.ledger import Entry

KAFKA_IMAGE = f"apache/kafka:{KAFKA_VERSION}"
REDIS_IMAGE = "redis:7"
_ASK_DEADLINE_S = 10.0
_PULL_DEADLINE_S = 600.0
_READY_DEADLINE_S = 90.0
_STOP_DEADLINE_S = 60.0


def unavailable() -> str | None:
    """Why containers cannot be had here, or null."""
    docker = shutil.which("docker")
    if docker is None:
        return "no docker on PATH"
    try:
        code, _ = process.run([docker, "info"], deadline_s=_ASK_DEADLINE_S)
    except ServerFailure:
        code = 1
    return None if code == 0 else "the Docker engine does not answer"


def start_kafka(place: Place, report: Report) -> Entry:
    """A single KRaft node. Raises ServerFailure; then nothing is left running."""
    port = launch.claim_port(place, "--kafka-port")
    address = f"{probe.LOOPBACK}:{port}"
    entry = Entry(
        name="kafka",
        how="docker",
        address=address,
        port=port,
        data=str(place.folder),
        container=f"heteroscale-kafka-{port}",
        owner=place.owner,
    )
    options = [option for key, value in kafka_environment(address).items() for option in ("-e", f"{key}={value}")]
    report(f"starting {KAFKA_IMAGE} on {address}")
    _start(entry, [*options, "-p", f"{address}:9092", KAFKA_IMAGE], lambda: probe.kafka_answers(probe.LOOPBACK, port))
    return entry


def start_redis(place: Place, report: Report) -> Entry:
    """A Redis that loses nothing. Raises ServerFailure; then nothing is left running."""
    port = launch.claim_port(place, "--redis-port")
    entry = Entry(
        name="redis",
        how="docker",
        address=f"redis://{probe.LOOPBACK}:{port}/0",
        port=port,
        data=str(place.folder),
        container=f"heteroscale-redis-{port}",
        owner=place.owner,
    )
    command = ["redis-server", "--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    report(f"starting {REDIS_IMAGE} on {probe.LOOPBACK}:{port}")
    _start(entry, ["-p", f"{probe.LOOPBACK}:{port}:6379", REDIS_IMAGE, *command], lambda: probe.redis_answers(probe.LOOPBACK, port))
    return entry


def kafka_environment(advertised: str) -> Mapping[str, str]:
    """Settings of the container's broker: one node, loopback clients, no topics by itself."""
    return {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://{advertised}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }


def runs(container: str) -> bool:
    """Whether the container is up."""
    code, output = _docker(["inspect", "--format", "{{.State.Running}}", container], _ASK_DEADLINE_S)
    return code == 0 and output.strip() == "true"


def stop(container: str) -> bool:
    """Remove one of our containers with its data. False if it was gone already."""
    code, _ = _docker(["rm", "--force", "--volumes", container], _STOP_DEADLINE_S)
    return code == 0


def _start(entry: Entry, options: list[str], answers: Callable[[], bool]) -> None:
    container = entry.container or ""
    try:
        ledger.add(entry)
        _run_until_it_answers(entry.name, container, options, answers)
    except BaseException:
        stop(container)
        ledger.remove(entry)
        raise


def _run_until_it_answers(name: str, container: str, options: list[str], answers: Callable[[], bool]) -> None:
    code, output = _docker(["run", "--detach", "--name", container, *options], _PULL_DEADLINE_S)
    if code != 0:
        raise ServerFailure(f"Docker could not start {name}", cure="read Docker's answer", tail=f"    {output.strip()[-800:]}")
    if not process.wait_until(answers, deadline_s=_READY_DEADLINE_S):
        _, logs = _docker(["logs", "--tail", str(process.TAIL_LINES), container], _ASK_DEADLINE_S)
        raise ServerFailure(f"the {name} container does not answer", cure=f"docker logs {container}", tail=logs)


def _docker(arguments: list[str], deadline_s: float) -> tuple[int, str]:
    docker = shutil.which("docker")
    if docker is None:
        raise ServerFailure("no docker on PATH", cure="install Docker, or let the servers run natively")
    return process.run([docker, *arguments], deadline_s=deadline_s)
