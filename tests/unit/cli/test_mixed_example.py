"""examples/mixed: H20 decode and L20 prefill pair up behind one spine block, and what does not fit says so."""

from __future__ import annotations

from pathlib import Path

import orjson

from support.command_line import CommandLine

EXAMPLE = Path(__file__).parents[3] / "examples" / "mixed"
FILES = (str(EXAMPLE / "fleet.yaml"), str(EXAMPLE / "requests.yaml"))


def test_pairs_of_two_gpu_types_share_one_s2() -> None:
    """Prefill on L20, decode on H20, all in the one pod that has both; the plain service leaves that pod alone."""
    result = CommandLine(topics=False)("plan", *FILES, "--json")
    assert 0 == result.exit_code
    plans = {plan["service"]: plan for plan in map(orjson.loads, result.stdout.splitlines())}
    (group,) = plans["chat-mixed"]["groups"]
    assert ("placed", "c1", "mix") == (plans["chat-mixed"]["status"], group["domain"]["cluster"], group["domain"]["s2"])
    found = sorted((one["role"], one["gpu_type"]) for one in group["instances"])
    assert [("decode", "H20")] * 4 + [("prefill", "L20")] * 2 == found
    assert all(node.startswith("mix-") for one in group["instances"] for node in one["nodes"])
    (plain,) = plans["chat-h20"]["groups"]
    assert ("h20", "low") == (plain["domain"]["s2"], plain["pool"])
    assert ("unplaced", {"prefill": 1, "decode": 2}) == (plans["too-much"]["status"], plans["too-much"]["shortfall"])


def test_the_tree_names_domain_and_nodes() -> None:
    """What a person sees without --json."""
    lines = CommandLine(topics=False)("plan", *FILES).stdout.splitlines()
    assert lines[0].startswith("chat-mixed  placed")
    assert any("c1/mix, medium pool" in line for line in lines)
    assert 2 == sum("prefill  L20  mix-l" in line for line in lines)
    assert 4 == sum("decode  H20  mix-h" in line for line in lines)
    assert any(line.startswith("too-much  unplaced") and len(line) > 80 for line in lines)
    assert all(line == line.rstrip() for line in lines)
