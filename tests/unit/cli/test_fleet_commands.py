"""`heteroscale fleet`: files in, FleetNode records out, states changed by name; importers of other tools' files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from heteroscale.contracts.placements import InstanceState
from heteroscale.placement.topologies import fabrics, importers, kubernetes, slurm
from heteroscale.placement.topologies.fabrics import Given
from support import builders
from support.command_line import PREFIX, CommandLine

FLEET = """
fleet: default
nodes:
  - {node: a1-1, gpu_type: H20, gpus: 8, used: 0, at: {cluster: c1, s2: A, s1: a1}, state: ready}
  - {node: a1-2, gpu_type: H20, gpus: 8, at: {cluster: c1, s2: A, s1: a1, s0: r1}}
  - {node: b1-1, gpu_type: L20, gpus: 4, used: 2, at: {cluster: c1, s2: B, s1: b1}, state: cordoned}
"""
CSV = (
    "node,gpu_type,gpus,cluster,s2,s1,s0,state,used\na1-1,H20,8,c1,A,a1,,ready,0\na1-2,H20,8,c1,A,a1,r1,,\nb1-1,L20,4,c1,B,b1,,cordoned,2\n"
)
TOPOGRAPH = """
switches:
  S1: {switches: [S2, S3]}
blocks:
- {switch: S2, nodes: ["I[21-22]", "I25"], annotations: {accelerator.topology.test/domain: nvl2}}
- {switch: S3, nodes: ["I[34-36]"]}
"""
SLURM = "SwitchName=spine Switches=leaf[1-2]\nSwitchName=leaf1 Nodes=n[01-02]\nSwitchName=leaf2 Nodes=n[03-04] # two\n"
GIVEN = Given(fleet="f", cluster="c", gpu_type="H20", gpus=8)


@pytest.fixture
def line() -> CommandLine:
    """A command line on fresh topics."""
    return CommandLine()


def write(tmp_path: Path, name: str, text: str) -> str:
    """A file with a text."""
    path = tmp_path / name
    path.write_text(text, "utf-8")
    return str(path)


def nodes(line: CommandLine) -> dict[str, dict[str, object]]:
    """The nodes on fleet.v1, by name."""
    return {node["node"]: node for node in line.json("fleet", "show")}


@pytest.mark.parametrize(("name", "text"), [("FLEET.yaml", FLEET), ("nodes.csv", CSV)])
def test_import_writes_nodes_once(line: CommandLine, tmp_path: Path, name: str, text: str) -> None:
    """Each format gives the same nodes; a second import changes nothing."""
    path = write(tmp_path, name, text)
    assert 0 == line("fleet", "import", path, "--dry-run").exit_code
    assert {} == nodes(line)

    [first] = line.json("fleet", "import", path)
    assert (3, 0) == (first["created"], first["unchanged"])
    found = nodes(line)
    assert ["a1-1", "a1-2", "b1-1"] == list(found)
    assert ("cordoned", 2, 4) == (found["b1-1"]["state"], found["b1-1"]["used"], found["b1-1"]["gpus"])
    assert {"cluster": "c1", "s2": "A", "s1": "a1", "s0": "r1"} == found["a1-2"]["at"]

    [second] = line.json("fleet", "import", path)
    assert (0, 3) == (second["created"], second["unchanged"])


def test_prune_removes_what_the_file_does_not_list(line: CommandLine, tmp_path: Path) -> None:
    """Without --prune nodes stay; with it those of the fleet that are not listed go."""
    line("fleet", "import", write(tmp_path, "a.yaml", FLEET))
    fewer = write(tmp_path, "b.yaml", "\n".join(FLEET.splitlines()[:4]))
    assert 0 == line.json("fleet", "import", fewer)[0]["removed"]
    assert 2 == line.json("fleet", "import", fewer, "--prune")[0]["removed"]
    assert ["a1-1"] == list(nodes(line))


def test_states_change_by_name(line: CommandLine, tmp_path: Path) -> None:
    """cordon, uncordon and lost write the node again with another state."""
    line("fleet", "import", write(tmp_path, "a.yaml", FLEET))
    for command, state in (("cordon", "cordoned"), ("lost", "lost"), ("uncordon", "ready")):
        assert 0 == line("fleet", command, "a1-1", "a1-2").exit_code
        assert [state, state] == [nodes(line)[node]["state"] for node in ("a1-1", "a1-2")]
    result = line("fleet", "cordon", "a1-11")
    assert 2 == result.exit_code
    assert "no node 'a1-11'; did you mean a1-1?" in result.stderr
    assert "no node 'a1-1' in fleet 'eu'; it is in default" in line("fleet", "cordon", "a1-1", "--fleet", "eu").stderr


def test_drain_cordons_and_says_what_still_runs(line: CommandLine, tmp_path: Path) -> None:
    """Instances are named, not cut off; --wait gives up with exit 1 when they stay."""
    line("fleet", "import", write(tmp_path, "a.yaml", FLEET.replace("a1-1", "n-p1")))
    line.put([builders.placement_entry(PREFIX, builders.placement("chat", builders.instance("p1", state=InstanceState.READY)))])
    [drained] = line.json("fleet", "drain", "n-p1")
    assert ("cordoned", ["p1"]) == (drained["state"], drained["instances"])
    assert 1 == line("fleet", "drain", "n-p1", "--wait", "--timeout", "1ms").exit_code
    assert "nothing runs there" in line("fleet", "drain", "b1-1").stdout


def test_show_sums_by_s1(line: CommandLine, tmp_path: Path) -> None:
    """The table has a line an s1, or a line a node."""
    assert "no nodes" in line("fleet", "show").stderr
    line("fleet", "import", write(tmp_path, "a.yaml", FLEET))
    assert 3 == len(line("fleet", "show").stdout.splitlines())
    assert 4 == len(line("fleet", "show", "--nodes").stdout.splitlines())


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.yaml", "nodes: [{node: x, gpu_type: H20, gpus: 0, at: {cluster: c, s2: A, s1: a}}]", "gpus 0 is not possible; write 1 or more"),
        (
            "a.yaml",
            "nodes: [{node: x, gpu_type: H20, gpus: 8, at: {cluster: c, s2: A}}]",
            "nodes[0]: at: Object missing required field `s1`",
        ),
        ("a.yaml", "nodes: [{nod: x, gpu_type: H20, gpus: 8}]", "nodes[0].nod: unknown key; did you mean node?"),
        (
            "a.yaml",
            "nodes: [{node: x, gpu_type: H20, gpus: 8, used: 9, at: {cluster: c, s2: A, s1: a}}]",
            "used 9 is not between 0 and its 8",
        ),
        ("a.yaml", "nodes: [{node: x, gpu_type: H20, gpus: 9000, at: {cluster: c, s2: A, s1: a}}]", "gpus 9000 is more than any node has"),
        ("a.yaml", "nodes: [{node: x, gpu_type: H20, gpus: 8, at: {cluster: c, s2: '', s1: a}}]", "x: s2 is empty; write it"),
        ("a.json", '{"nodes": [' * 100_000, "nested too deeply"),
        ("a.yaml", "nodes: []", "lists no node"),
        ("a.yaml", "service: chat", "is not a fleet; write fleet: default"),
        ("a.csv", "node,gpu_type,gpus,cluster,s2\n", "line 1: no column s1"),
        ("a.csv", "node,gpu_type,gpus,cluster,s2,s1\nx,H20,eight,c,A,a\n", "line 2: gpus: 'eight' is not a whole number"),
        ("a.csv", "node,gpu_type,gpus,cluster,s2,s1\nx,H20,8,c,A,a\nx,H20,8,c,A,a\n", "x: is listed 2 times"),
        ("topology.conf", SLURM, "give --gpu-type H20 --gpus 8"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused_whole(line: CommandLine, tmp_path: Path, name: str, text: str, said: str) -> None:
    """Exit 2, the place and the cure, and nothing written."""
    result = line("fleet", "import", write(tmp_path, name, text))
    assert 2 == result.exit_code
    assert said in result.stderr
    assert {} == nodes(line)


def test_topograph_models() -> None:
    """Leaf switches are s1, what is above them s2, accelerator domains s0; host lists are opened."""
    found = fabrics.from_topograph(importers_document(TOPOGRAPH), GIVEN)
    assert [] == found.problems
    assert ["I21", "I22", "I25", "I34", "I35", "I36"] == [node.node for node in found.nodes]
    assert {("S1", "S2", "nvl2"), ("S1", "S3", None)} == {(node.at.s2, node.at.s1, node.at.s0) for node in found.nodes}


def importers_document(text: str) -> object:
    """A YAML text as a document."""
    from heteroscale.cli import files  # noqa: PLC0415 (only here)

    return files.parse_yaml(text, "t.yaml")[0].document


def test_slurm_trees_and_blocks() -> None:
    """Switches with nodes are s1, the switch above them s2; blocks stand for themselves."""
    tree = slurm.from_conf(SLURM, GIVEN)
    assert [("n01", "spine", "leaf1"), ("n02", "spine", "leaf1"), ("n03", "spine", "leaf2"), ("n04", "spine", "leaf2")] == [
        (node.node, node.at.s2, node.at.s1) for node in tree.nodes
    ]
    assert ["b1"] * 3 == [node.at.s1 for node in slurm.from_conf("BlockName=b1 Nodes=n[1-3]\n", GIVEN).nodes]
    assert slurm.from_conf("SwitchName=s Nodes=n[3-1]\n", GIVEN).problems


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a", ["a"]), ("n[08-10,3],m", ["n08", "n09", "n10", "n3", "m"]), ("r[1-2]n[1-2]", ["r1n1", "r1n2", "r2n1", "r2n2"])],
)
def test_host_lists(text: str, expected: list[str]) -> None:
    """Ranges keep leading zeros and may stand several times."""
    assert expected == fabrics.expand(text)


@pytest.mark.parametrize("text", ["n[1-", "n1-3]", "n[3-1]", "n[a-b]", "n[1-99999999]"])
def test_host_lists_that_make_no_sense(text: str) -> None:
    """Neither taken for a name nor spelled out without an end."""
    with pytest.raises(ValueError, match=r"host"):
        fabrics.expand(text)


def test_kubernetes_nodes(line: CommandLine, tmp_path: Path) -> None:
    """Labels give topology and GPU type; nodes without GPUs are left out, unschedulable ones cordoned."""
    labels = {"network.topology.nvidia.com/leaf": "l1", "network.topology.nvidia.com/spine": "s1", "nvidia.com/gpu.product": "NVIDIA-H200"}
    items = [
        {"metadata": {"name": "gpu-1", "labels": labels}, "status": {"capacity": {"nvidia.com/gpu": "8"}}, "spec": {"unschedulable": True}},
        {"metadata": {"name": "cpu-1", "labels": {}}, "status": {"capacity": {"cpu": "8"}}},
    ]
    path = write(tmp_path, "nodes.json", orjson.dumps({"kind": "List", "items": items}).decode())
    assert 1 == line.json("fleet", "import", path, "--cluster", "eu")[0]["created"]
    node = nodes(line)["gpu-1"]
    assert ("cordoned", "NVIDIA-H200", 8) == (node["state"], node["gpu_type"], node["gpus"])
    assert {"cluster": "eu", "s2": "s1", "s1": "l1", "s0": None} == node["at"]

    unlabelled = kubernetes.from_nodes({"items": [{"metadata": {"name": "g"}, "status": {"capacity": {"nvidia.com/gpu": "8"}}}]}, GIVEN)
    assert "g: has no label for s1; label it with fabric.topograph.run/tier-0, or name yours with --label s1=KEY" == unlabelled.problems[0]


@pytest.mark.parametrize("document", [None, 5, [], {}, {"blocks": 3}, {"blocks": [{"nodes": None}]}, {"items": [{}]}, {"items": "x"}])
def test_what_is_no_fabric_is_a_problem(document: object) -> None:
    """Anything may stand in a file; it is said what it is not, never a crash."""
    assert fabrics.from_topograph(document, GIVEN).problems
    assert kubernetes.from_nodes(document, GIVEN).problems
    assert importers.from_document(document).problems


def test_a_crowded_leaf_is_pointed_out() -> None:
    """Most nodes of a large fleet in one s1 looks like a misread fabric."""
    crowded = slurm.from_conf("SwitchName=leaf Nodes=n[001-100]\n", GIVEN)
    assert ["100 of 100 nodes sit in one s1, c/leaf/leaf; is the fabric read right?"] == crowded.warnings
    assert [] == importers.from_document(importers_document(FLEET)).warnings


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (slurm.from_conf, "SwitchName=l1 Nodes=n[1-2]\nSwitchName=l2 Nodes=\nSwitchName=top Switches=l[1-3]\n"),
        (slurm.from_conf, "BlockName=l1 Nodes=n[1-2]\nBlockName=l2 Nodes=\nBlockName=l3 Nodes= # to come\nBlockSizes=2,4\n"),
        (
            slurm.from_yaml,
            "[{topology: t, tree: {switches: [{switch: top, children: 'l[1-3]'}, {switch: l1, nodes: n1}, {switch: l2, nodes: ''}]}}]",
        ),
        (
            fabrics.from_topograph,
            "{switches: {top: {switches: [l1, l2, l3]}}, blocks: [{switch: l1, nodes: [n1]}, {switch: l2, nodes: []}]}",
        ),
    ],
)
def test_a_pod_without_nodes_is_pointed_out(read: Callable[[Any, Given], importers.Imported], text: str) -> None:
    """A leaf that lists nothing (l2), or that is only named by the switch above it (l3), looks like a file cut short."""
    found = read(text if read is slurm.from_conf else importers_document(text), GIVEN)
    assert ([], ["no node is listed under l2, l3; is the file complete?"]) == (found.problems, found.warnings)


def test_labels_of_ones_own_come_before_the_usual_ones(line: CommandLine, tmp_path: Path) -> None:
    """--label names the label of a level or of the GPU type; what is no level is refused."""
    labels = {"my.org/rack": "r7", "my.org/hall": "h2", "my.org/gpu": "H20", "network.topology.nvidia.com/leaf": "other"}
    items = [{"metadata": {"name": "g1", "labels": labels}, "status": {"capacity": {"nvidia.com/gpu": "8"}}}]
    path = write(tmp_path, "nodes.json", orjson.dumps({"kind": "List", "items": items}).decode())
    mapped = [word for level in ("s1=my.org/rack", "s2=my.org/hall", "gpu_type=my.org/gpu") for word in ("--label", level)]
    assert 1 == line.json("fleet", "import", path, *mapped)[0]["created"]
    node = nodes(line)["g1"]
    assert ("H20", {"cluster": "default", "s2": "h2", "s1": "r7", "s0": None}) == (node["gpu_type"], node["at"])
    for wrong in ("rack=my.org/rack", "s1", "s1="):
        refused = line("fleet", "import", path, "--label", wrong)
        assert (2, True) == (refused.exit_code, "is not LEVEL=KEY; write one such as s1=example.com/leaf" in refused.stderr)


SLURM_YAML = """
- topology: flat1
  flat: true
- topology: fabric
  cluster_default: true
  tree:
    switches:
      - {switch: spine, children: "leaf[1-2]"}
      - {switch: leaf1, nodes: "n[01-02]"}
      - {switch: leaf2, nodes: "n03"}
"""
SLURM_BLOCKS = """
- topology: nvl
  block:
    block_sizes: [2, 4]
    blocks:
      - {block: b1, nodes: "n[1-2]"}
      - {block: b2, nodes: "n[3-4]"}
      - {block: b3, nodes: "n[5-6]"}
"""


def test_slurm_yaml_gives_what_the_older_file_gives(line: CommandLine, tmp_path: Path) -> None:
    """The default topology is read, trees and blocks; topologies that were left out are named."""
    given = ("--gpu-type", "H20", "--gpus", "8")
    result = line("fleet", "import", write(tmp_path, "topology.yaml", SLURM_YAML), *given)
    assert (0, True) == (result.exit_code, "fabric was read; flat1 not" in result.stderr)
    leaves = {"n01": "leaf1", "n02": "leaf1", "n03": "leaf2"}
    expected = {name: {"cluster": "default", "s2": "spine", "s1": leaf, "s0": None} for name, leaf in leaves.items()}
    assert expected == {name: node["at"] for name, node in nodes(line).items()}


def test_blocks_of_the_second_size_share_an_s2() -> None:
    """Successive blocks make up a larger one, in both files alike."""
    conf = "BlockName=b1 Nodes=n[1-2]\nBlockName=b2 Nodes=n[3-4]\nBlockName=b3 Nodes=n[5-6]\nBlockSizes=2,4\n"
    found = slurm.from_yaml(importers_document(SLURM_BLOCKS), GIVEN)
    assert [("b1", "b1"), ("b1", "b2"), ("b3", "b3")] == list(dict.fromkeys((node.at.s2, node.at.s1) for node in found.nodes))
    assert found.nodes == slurm.from_conf(conf, GIVEN).nodes


@pytest.mark.parametrize(
    "document", [None, 5, {}, [], [{}], [{"topology": "t"}], [{"topology": "t", "flat": True}], [{"topology": "t", "tree": {}}]]
)
def test_what_is_no_slurm_topology_is_a_problem(document: object) -> None:
    """It is said what it is not, never a crash."""
    assert slurm.from_yaml(document, GIVEN).problems


def test_an_import_that_says_no_state_lets_a_cordoned_node_be(line: CommandLine, tmp_path: Path) -> None:
    """A nightly import must not put back to work what people took out; a file that says `ready` does, and diff agrees with import."""
    line("fleet", "import", write(tmp_path, "a.yaml", FLEET))
    line("fleet", "cordon", "a1-1", "a1-2")  # the file says that a1-1 is ready, and nothing of a1-2
    assert "~ default/a1-1  state: cordoned -> ready\n" == line("fleet", "diff", write(tmp_path, "a.yaml", FLEET)).stdout
    (counts,) = line.json("fleet", "import", write(tmp_path, "a.csv", CSV))
    assert (1, 2) == (counts["changed"], counts["unchanged"])
    assert ("ready", "cordoned") == (nodes(line)["a1-1"]["state"], nodes(line)["a1-2"]["state"])
    tree = write(tmp_path, "topology.conf", SLURM)
    given = ("--gpu-type", "H20", "--gpus", "8")
    line("fleet", "import", tree, *given)
    line("fleet", "lost", "n01")
    assert 4 == line.json("fleet", "import", tree, *given)[0]["unchanged"]
    assert "lost" == nodes(line)["n01"]["state"]


def test_diff_says_what_an_import_would_change(line: CommandLine, tmp_path: Path) -> None:
    """New, gone and changed nodes, field by field; exit 1 if there are any, and nothing is written."""
    line("fleet", "import", write(tmp_path, "a.yaml", FLEET))
    same = line("fleet", "diff", write(tmp_path, "a.yaml", FLEET))
    assert (0, "") == (same.exit_code, same.stdout)
    lines = FLEET.replace("gpus: 4, used: 2", "gpus: 8, used: 2").replace("s0: r1", "s0: r2").replace("a1-1", "a1-9")
    path = write(tmp_path, "b.yaml", lines)
    before = nodes(line)
    result = line("fleet", "diff", path)
    assert 1 == result.exit_code
    assert [
        "- default/a1-1  ",
        "~ default/a1-2  at.s0: r1 -> r2",
        "+ default/a1-9  ",
        "~ default/b1-1  gpus: 4 -> 8",
    ] == [text if text.startswith("~") else text.partition("  ")[0] + "  " for text in result.stdout.splitlines()]
    documents = [orjson.loads(text) for text in line("fleet", "diff", path, "--json").stdout.splitlines()]
    assert ["removed", "changed", "created", "changed"] == [one["what"] for one in documents]
    assert ({"gpus": 4}, {"gpus": 8}) == (documents[3]["before"], documents[3]["after"])
    assert before == nodes(line)
