"""The report in a real browser, and what can be said of it without one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import resources
from pathlib import Path

import pytest

from heteroscale.replay import archive, overrides, report
from heteroscale.replay.recorded import Recorded
from heteroscale.replay.whatif import Answer, Case
from support import browser, capabilities
from support.browser import Page

BUNDLE = Path(__file__).parent / "bundles" / "burst.tar.zst"
SET = "behavior.scale_in.stabilization=60s"
PNG = b"\x89PNG"


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    """The page of a counterfactual, and what it is about."""
    with archive.opened(BUNDLE) as found:
        text, [answer] = report.page(Recorded(found), Case([overrides.parse(SET)]), title=SET)
    path = tmp_path_factory.mktemp("page") / "out.html"
    path.write_text(text)
    return path, answer


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A browser."""
    with browser.opened() as found:
        yield found


def text_of(page: Page, name: str) -> str:
    """What an element shows."""
    return str(page.ask(f"document.getElementById({name!r}).innerText"))


def cursor_x(page: Page) -> float:
    """Where the cursor stands in the window."""
    return float(page.ask("document.getElementById('cursor').getBoundingClientRect().x"))


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (420, False)], ids=["light", "dark", "narrow"])
def test_the_page_opens_whole_and_fetches_nothing(page: Page, compared: tuple[Path, Answer], width: int, *, dark: bool) -> None:
    """No error, no request but the file itself, every lane drawn, nothing wider than the window; a dark scheme is dark."""
    page.requested.clear()
    page.show(compared[0], width=width, dark=dark)
    assert ([], [compared[0].resolve().as_uri()]) == (page.errors, page.requested)
    lanes = page.ask("[...document.querySelectorAll('svg text.name')].map(one => one.textContent)")
    assert ["Demand", "decode", "prefill", "Guards", "Actions", "Placement", "Faults"] == lanes
    assert page.ask("document.documentElement.scrollWidth <= innerWidth")
    red, green, blue = map(int, re.findall(r"\d+", page.ask("getComputedStyle(document.body).backgroundColor"))[:3])
    assert (red + green + blue < 150) is dark
    assert page.photograph().startswith(PNG)


def test_the_cursor_shows_state_and_reason_of_its_instant(page: Page, compared: tuple[Path, Answer]) -> None:
    """It stands at the horizon first, follows the mouse over the timeline, and steps with the arrow keys."""
    page.show(compared[0])
    at_horizon = text_of(page, "panel")
    assert "2026-01-05 00:12:00 UTC" in at_horizon
    assert "hold stabilizing" in " ".join(at_horizon.split())
    assert f"{SET}: scale-in (demand) exact" in at_horizon
    box = page.ask("(b => [b.x, b.y, b.width, b.height])(document.getElementById('chart').getBoundingClientRect())")
    page.point(box[0] + box[2] * 0.5, box[1] + 60)
    assert "2026-01-05 00:12:00 UTC" not in text_of(page, "panel")
    assert abs(cursor_x(page) - (box[0] + box[2] * 0.5)) < box[2] / 60
    before, shown = cursor_x(page), text_of(page, "panel")
    page.press("ArrowRight")
    assert cursor_x(page) > before
    assert text_of(page, "panel") != shown
    page.press("ArrowLeft")
    assert text_of(page, "panel") == shown


def test_both_courses_are_there_and_the_table_is_the_answer(page: Page, compared: tuple[Path, Answer]) -> None:
    """Beyond the horizon the other course is drawn and named as simulated; the table has the figures that the command prints."""
    page.show(compared[0])
    assert "horizon: simulated after" in page.ask("document.getElementById('chart').textContent")
    assert 2 <= page.ask("document.querySelectorAll('svg path[stroke-dasharray=\"5 3\"]').length")
    page.press("ArrowRight")
    assert "simulated" in text_of(page, "panel").split("Counts")[0]
    answer, outcome = compared[1], " ".join(text_of(page, "outcome").split())
    assert answer.simulated is not None
    assert answer.simulated_as_recorded is not None
    figures = (answer.before, answer.recorded, answer.simulated_as_recorded, answer.simulated)
    assert f"GPU-hours commanded {' '.join(f'{one.gpu_hours:g}' for one in figures)}" in outcome


def test_the_script_is_whole_without_a_browser(compared: tuple[Path, Answer]) -> None:
    """Every element that the script asks for is in the page, every summary field it reads is in the answer, and it parses."""
    template = resources.files("heteroscale.replay").joinpath(report.TEMPLATE).read_text(encoding="utf-8")
    script = template.split("<script>")[1].split("</script>")[0]
    ids = set(re.findall(r'id="(\w+)"', template)) | {"cursor"}
    assert set() == set(re.findall(r'\$\("(\w+)"\)', script)) - ids
    assert set() == set(re.findall(r"\bsum\.(\w+)", script)) - set(Answer.__struct_fields__)
    rows = script.split("const ROWS = ")[1].split("]];")[0]
    assert set(compared[1].before.__struct_fields__) == set(re.findall(r'","(\w+)"', rows))
    assert 1 == template.count(report.MARK)
    node = shutil.which("node")
    if node is None:
        capabilities.missing(capabilities.look("node", lambda: (False, "no node on PATH; apt-get install nodejs")))
    checked = compared[0].read_text().split("<script>")[1].split("</script>")[0]
    done = subprocess.run([node, "--check", "-"], input=checked, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
