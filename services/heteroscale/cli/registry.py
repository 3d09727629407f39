"""Every command there is, by name: where in cli.commands it lives and one line of help. Nothing is imported until it is called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class Entry(NamedTuple):
    """A command of the root group: `target` is `module:attribute` in cli.commands, `about` its line in `heteroscale --help`."""

    target: str
    about: str


SECTIONS: Final[Mapping[str, Mapping[str, Entry]]] = {
    "Specs": {
        "validate": Entry("validate:validate", "Check spec files; say what to write instead."),
        "explain-spec": Entry("explain_spec:explain_spec", "Print every effective value of a spec, its unit and its source."),
        "apply": Entry("apply:apply", "Put specs in force."),
        "get": Entry("services:get", "List services and their specs in force."),
        "describe": Entry("services:describe", "Show all that is known of one service."),
        "delete": Entry("delete:delete", "Let a service go, after draining it if asked."),
        "specs": Entry("specs:specs", "History, differences and rollback of a spec."),
        "pause": Entry("modes:pause", "Stop scaling a service, for a time."),
        "resume": Entry("modes:resume", "Go back to the mode before a pause."),
        "suspend": Entry("modes:suspend", "Stop commanding a service altogether, for a time."),
    },
    "Look": {
        "status": Entry("status:status", "All services at a glance."),
        "why": Entry("decisions:why", "Why a service last moved or held, and what would change it."),
        "decisions": Entry("decisions:decisions", "Follow decisions, or show one stage by stage."),
        "placements": Entry("placements:placements", "Where instances run, and adoption of running ones."),
        "why-unplaced": Entry("placements:why_unplaced", "What keeps a service from being placed, and what would fix it."),
        "inventory": Entry("placements:inventory", "Who holds which GPU."),
        "doctor": Entry("doctor:doctor", "What is reachable, what is wrong, what to do."),
    },
    "Offline": {
        "signals": Entry("signals:signals", "Signal windows from telemetry files."),
        "decide": Entry("decide:decide", "Decisions from signal windows."),
        "plan": Entry("plan:plan", "One scheduling cycle on paper."),
        "telemetry": Entry("telemetry:telemetry", "Engine metric pages: read, check and follow them."),
        "simulate": Entry("simulate:simulate", "A trace through the whole loop on a virtual clock."),
        "benchmark": Entry("benchmark:benchmark", "What autoscaling saves, against what people use."),
    },
    "Incidents": {
        "incident": Entry("incident:incident", "Capture, look at, export and keep incidents."),
        "replay": Entry("replay:replay", "An incident through the live code again, as it was or as it might have been."),
        "explain": Entry("explain:explain", "A decision back to its samples and forward to the nodes, or why not another."),
    },
    "Operate": {
        "fleet": Entry("fleet:fleet", "Import, show, cordon and drain nodes."),
        "topics": Entry("topics:topics", "Create, describe and follow the topics."),
        "dead-letters": Entry("dead_letters:dead_letters", "Records that could not be used: list, show, retry."),
        "export": Entry("export:export_command", "Scrape engines and publish their telemetry."),
        "run": Entry("run:run", "Run a service, or all of them."),
        "servers": Entry("servers:servers", "Bring up a Kafka and a Redis of your own."),
        "demo": Entry("demo:demo", "A real day through the whole loop, live."),
        "completion": Entry("completion:completion", "Print shell completion for bash, zsh or fish."),
    },
}

COMMANDS: Final[Mapping[str, Entry]] = {name: entry for section in SECTIONS.values() for name, entry in section.items()}
