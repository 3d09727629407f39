"""The broker's jars: fetched once by Maven from a pinned pom, checked, and only then put where the broker looks."""

from __future__ import annotations

import re
import shutil
import zipfile
from importlib import resources
from pathlib import Path

from heteroscale.servers import ledger, process
from heteroscale.servers.failure import ServerFailure
from heteroscale.servers.launch import Report

KAFKA_VERSION = "4.4.0"
_FETCH_DEADLINE_S = 600.0
_NOISE = re.compile(r"\x1b\[[0-9;]*m")


def folder() -> Path:
    """Where this version's jars are, or will be."""
    return ledger.cache_folder() / f"kafka-{KAFKA_VERSION}" / "libs"


def present() -> bool:
    """Whether the jars were fetched whole."""
    return (folder() / f"kafka_2.13-{KAFKA_VERSION}.jar").is_file()


def ensure(report: Report) -> Path:
    """The folder with the jars, fetched if need be. Raises ServerFailure."""
    with ledger.exclusive("jars"):
        if not present():
            report(f"fetching Apache Kafka {KAFKA_VERSION} with Maven (43 MB, once)")
            _fetch(folder())
    return folder()


def _fetch(target: Path) -> None:
    maven = shutil.which("mvn")
    if maven is None:
        raise ServerFailure("Maven is not on PATH", cure="install Maven (package `maven`), or set HETEROSCALE_KAFKA=host:port")
    partial = target.with_name("libs.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    pom = partial.with_name("pom.xml")
    pom.write_bytes(resources.files(__package__).joinpath("kafka_pom.xml").read_bytes())
    argv = [maven, "-q", "-B", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={partial}"]
    code, output = process.run(argv, deadline_s=_FETCH_DEADLINE_S)
    if code != 0:
        raise ServerFailure(
            "Maven could not fetch Kafka", cure="check the network and Maven's settings, then try again", tail=_tail(output)
        )
    damaged = sorted(jar.name for jar in partial.glob("*.jar") if not zipfile.is_zipfile(jar))
    if damaged or not (partial / f"kafka_2.13-{KAFKA_VERSION}.jar").is_file():
        raise ServerFailure(
            f"the download is broken: {', '.join(damaged) or 'the broker jar is missing'}",
            cure="remove the damaged files from Maven's local repository (~/.m2) and try again",
        )
    shutil.rmtree(target, ignore_errors=True)
    partial.replace(target)


def _tail(output: str) -> str:
    lines = [_NOISE.sub("", line).strip() for line in output.splitlines()]
    return "\n".join(f"    {line}" for line in [line for line in lines if line][:8])
