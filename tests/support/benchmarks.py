"""`make bench`: every measurement in turn, on the Kafka and Redis that this machine gives; what is started for it ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click

from heteroscale.servers import chain
from heteroscale.servers.failure import ServerFailure

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
NOT_RUN = frozenset({"worlds.py"})  # what measurements share


def main(arguments: list[str]) -> int:
    """Run them; the first exit code that is not 0, or 0."""
    scripts = [path for path in sorted(FOLDER.glob("*.py")) if path.name not in NOT_RUN]
    try:
        with chain.provide(options=chain.Options(report=_say)) as servers:
            if not servers.real:
                _say("the measurements need a real Kafka and a real Redis")
                return 1
            told = {**os.environ, **{chain.VARIABLE[name]: str(getattr(servers, name)) for name in chain.NAMES}}
            for script in scripts:
                click.echo(f"\n== {script.relative_to(Path.cwd())}")
                code = subprocess.run([sys.executable, str(script), *arguments], env=told, check=False).returncode
                if code != 0:
                    return code
    except ServerFailure as failure:
        _say(f"error: {failure}")
        return 1
    return 0


def _say(line: str) -> None:
    click.echo(line, err=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
