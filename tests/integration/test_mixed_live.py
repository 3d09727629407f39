"""examples/mixed/README.md, command by command, on real Kafka and Redis: pairs of two GPU types in one s2, and the tree it shows."""

from __future__ import annotations

import json
import re
import time
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from support.processes import Fleet, Service

pytestmark = [pytest.mark.kafka, pytest.mark.redis, pytest.mark.timeout(180)]

ROOT: Final = Path(__file__).parents[2]
README: Final = (ROOT / "examples" / "mixed" / "README.md").read_text()
LIVE: Final = README.partition("On real Kafka and Redis")[2]
PATIENCE_S: Final = 60.0


def commands() -> list[list[str]]:
    """The commands of the live part, as a shell would split them; the last one stays in the background."""
    return [line.split() for line in re.findall(r"^ {4}((?:HETEROSCALE_\S+ )?heteroscale .+)$", LIVE, re.MULTILINE)]


def shown(command: str) -> str:
    """What the page says that a command prints: the indented block after its name."""
    found = re.search(rf"`heteroscale {re.escape(command)}`:\n\n((?: {{4}}.+\n)+)", LIVE)
    assert found is not None, command
    return "".join(f"{line[4:]}\n" for line in found[1].splitlines())


def test_the_page_says_what_happens(kafka: str, redis_url: str, prefix: str, tmp_path: Path) -> None:
    """The trees of both services come out as printed, the third says what it lacks, and the books are right."""
    environment = {"HETEROSCALE_KAFKA": kafka, "HETEROSCALE_REDIS": redis_url, "HETEROSCALE_PREFIX": prefix}
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with Fleet(environment, tmp_path) as processes:
        *before, (pretend, *run) = commands()
        assert ["heteroscale", "run", "all", "&"] == run
        for _, *arguments in before:
            processes.run(*arguments)
        loop = processes.start("all", wait=False, extra=dict([pretend.split("=")]))
        for service in ("chat-mixed", "chat-h20"):
            assert shown(f"placements show {service}") == tree(processes, service, "converged")
        assert 9 == moved_to(loop, "reserved") == moved_to(loop, "ready")
        processes.run("apply", "examples/mixed/too-much.yaml")
        tree(processes, "too-much", "unplaced")
        missing = json.loads(processes.run("why-unplaced", "too-much", "--json"))
        assert {"prefill": 1, "decode": 2} == missing["shortfall"]
        assert shown("inventory check --fleet mixed") == processes.run("inventory", "check", "--fleet", "mixed")


def moved_to(service: Service, state: str) -> float:
    """How many instances went into a state, by the metrics of the process."""
    with urllib.request.urlopen(f"http://127.0.0.1:{service.port}/metrics", timeout=5) as answer:
        page = answer.read().decode()
    found = re.findall(rf'^heteroscale_placement_transitions_total{{.*after="{state}".*}} (\S+)$', page, re.MULTILINE)
    return sum(map(float, found))


def tree(processes: Fleet, service: str, status: str) -> str:
    """What `placements show` prints below its first line, once the service is `status`."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            first, _, rest = processes.run("placements", "show", service).partition("\n")
        except AssertionError as error:
            first, rest = str(error), ""
        if first.startswith(f"{service}  {status}"):
            return rest
        assert time.monotonic() < deadline, first
        time.sleep(0.5)
