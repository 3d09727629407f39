"""A page read with a memo is the page: whatever was read before, shuffled, cut and repeated."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from heteroscale.telemetry import page

PAGES = Path(__file__).parents[2] / "data" / "metrics_pages"
ODD = b'a{b="}"} 1\na{b="}"} 2 1700000000000\na{b="c"} 1_0\na{b="c"} NaN\na  5\na{b="c"}7\nb{c="d"} 1 # {e="f"} 2\nb{c="d"} 3\r\n'


def told(read: page.Page) -> list[tuple[str, str]]:
    """Each series; whole numbers and floats that are equal are equal."""
    return sorted((name, f"{one.labels} {float(one.value)} {one.line}") for name, found in read.series.items() for one in found)


@pytest.mark.parametrize("name", ["vllm_0.6_kubeai.prom", "sglang_docs_llama31_8b_overloaded.prom", "dcgm_exporter_tesla_t4_datadog.prom"])
@pytest.mark.parametrize("seed", range(3))
def test_a_remembered_page_reads_as_a_new_one(name: str, seed: int) -> None:
    """Also when the memo is too small for it and forgets."""
    draw = random.Random(seed)
    lines = [*(PAGES / name).read_bytes().splitlines(), *ODD.splitlines()]
    memo = page.Memo(lines_max=100 if seed else 10_000)
    for _ in range(3):
        draw.shuffle(lines)
        cut = [line[: draw.randint(0, len(line))] if draw.random() < 0.1 else line for line in lines]
        body = b"\n".join(cut)
        assert told(page.parse(body)) == told(page.parse(body, memo))
        assert page.parse(body).problems == page.parse(body, memo).problems
