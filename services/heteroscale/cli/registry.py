"""Every command there is, by name: where its click command lives and one line of help. Nothing is imported until it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Entry(NamedTuple):
    """A command of the root group: `target` is `module:attribute`, `about` its line in `heteroscale --help`."""

    target: str
    about: str


SECTIONS: Final[Mapping[str, Mapping[str, Entry]]] = {
    "Specs": {
        "validate": Entry("heteroscale.cli.validate:validate", "Check spec files; say what to write instead."),
        "explain-spec": Entry(
            "heteroscale.cli.explain_spec:explain_spec", "Print every effective value of a spec, its unit and its source."
        ),
        "apply": Entry("heteroscale.cli.apply:apply", "Put specs in force."),
        "get": Entry("heteroscale.cli.services:get", "List services and their specs in force."),
        "describe": Entry("heteroscale.cli.services:describe", "Show all that is known of one service."),
        "delete": Entry("heteroscale.cli.delete:delete", "Let a service go, after draining it if asked."),
        "specs": Entry("heteroscale.cli.specs:specs", "History, differences and rollback of a spec."),
        "pause": Entry("heteroscale.cli.modes:pause", "Stop scaling a service, for a time."),
        "resume": Entry("heteroscale.cli.modes:resume", "Go back to the mode before a pause."),
        "suspend": Entry("heteroscale.cli.modes:suspend", "Stop commanding a service altogether, for a time."),
    },
    "Look": {
        "status": Entry("heteroscale.cli.status:status", "All services at a glance."),
        "why": Entry("heteroscale.cli.decisions:why", "Why a service last moved or held, and what would change it."),
        "decisions": Entry("heteroscale.cli.decisions:decisions", "Follow decisions, or show one stage by stage."),
        "placements": Entry("heteroscale.cli.placements:placements", "Where instances run, and adoption of running ones."),
        "why-unplaced": Entry("heteroscale.cli.placements:why_unplaced", "What keeps a service from being placed, and what would fix it."),
        "inventory": Entry("heteroscale.cli.placements:inventory", "Who holds which GPU."),
        "doctor": Entry("heteroscale.cli.doctor:doctor", "What is reachable, what is wrong, what to do."),
    },
    "Offline": {
        "signals": Entry("heteroscale.cli.signals:signals", "Signal windows from telemetry files."),
        "decide": Entry("heteroscale.cli.decide:decide", "Decisions from signal windows."),
        "plan": Entry("heteroscale.cli.plan:plan", "One scheduling cycle on paper."),
        "telemetry": Entry("heteroscale.cli.telemetry:telemetry", "Engine metric pages: read, check and follow them."),
        "simulate": Entry("heteroscale.cli.simulate:simulate", "A trace through the whole loop on a virtual clock."),
        "benchmark": Entry("heteroscale.cli.benchmark:benchmark", "What autoscaling saves, against what people use."),
    },
    "Incidents": {
        "incident": Entry("heteroscale.cli.incident:incident", "Capture, look at, export and keep incidents."),
        "replay": Entry("heteroscale.cli.replay:replay", "An incident through the live code again, as it was or as it might have been."),
        "explain": Entry("heteroscale.cli.explain:explain", "A decision back to its samples and forward to the nodes, or why not another."),
    },
    "Operate": {
        "fleet": Entry("heteroscale.cli.fleet:fleet", "Import, show, cordon and drain nodes."),
        "topics": Entry("heteroscale.cli.topics:topics", "Create, describe and follow the topics."),
        "dead-letters": Entry("heteroscale.cli.dead_letters:dead_letters", "Records that could not be used: list, show, retry."),
        "export": Entry("heteroscale.cli.export:export_command", "Scrape engines and publish their telemetry."),
        "run": Entry("heteroscale.cli.run:run", "Run a service, or all of them."),
        "servers": Entry("heteroscale.cli.servers:servers", "Bring up a Kafka and a Redis of your own."),
        "demo": Entry("heteroscale.cli.demo:demo", "A real day through the whole loop, live."),
        "completion": Entry("heteroscale.cli.completion:completion", "Print shell completion for bash, zsh or fish."),
    },
}

COMMANDS: Final[Mapping[str, Entry]] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
