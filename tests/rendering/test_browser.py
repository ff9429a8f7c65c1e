"""The HTML report in a browser: it draws, opens, closes and finds, and the console stays empty."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from speedup.ir.report import Report
from speedup.rendering.page.document import html_report
from tests.support.browser import chromium, visit
from tests.support.reports import reported, residual, small

pytestmark = pytest.mark.skipif(
    chromium() is None,
    reason="no Chromium here: install Debian's chromium-headless-shell, or name one in SPEEDUP_CHROMIUM",
)

SIZES = ((1280, 900), (600, 900))
TEN, THOUSAND = small(), residual(334)
COUNTS = """
  const count = (what) => document.querySelectorAll(what).length;
  const drawn = () => ({
    boxes: count("#graph .unit"), links: count("#graph .link"), matches: count("#graph .match"),
    layers: [...document.querySelectorAll("#layers .layer")].filter((one) => one.checkVisibility()).length,
  });
  const units = () => [...document.querySelectorAll("#graph .unit")];
  const click = (target) => target.dispatchEvent(new MouseEvent("click", { bubbles: true }));
  const find = (text) => {
    const box = document.getElementById("search");
    box.value = text;
    box.dispatchEvent(new Event("input"));
  };
"""


def look(report: Report, script: str, folder: Path, size: tuple[int, int] = SIZES[0]) -> dict[str, object]:
    """What `script` returns in the report's page, on whose console nothing may appear."""
    html = html_report(report, lambda path: f"why {path}", "A title")
    found = visit(html, COUNTS + script, folder, size)
    assert found.console == ()
    assert isinstance(found.result, dict)
    assert "thrown" not in found.result, found.result
    return found.result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("report", [TEN, THOUSAND], ids=["few layers", "a thousand layers"])
def test_page_fits_the_window_and_its_boxes_do_not_overlap(
    report: Report, size: tuple[int, int], tmp_path: Path
) -> None:
    found = look(
        report,
        """
        const boxes = units().map((one) => one.querySelector(".box").getBoundingClientRect());
        const apart = (a, b) =>
          a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
        const overlapping = boxes.filter((a, i) => boxes.some((b, j) => i < j && !apart(a, b))).length;
        const wide = document.documentElement.scrollWidth - innerWidth;
        const graph = document.getElementById("graph").getBoundingClientRect();
        const first = boxes[0];
        const inView = first.left >= graph.left && first.right <= graph.right && first.top >= graph.top;
        return { overlapping, wide, inView, readable: first.height, ...drawn() };
        """,
        tmp_path,
        size,
    )
    assert found["overlapping"] == 0
    assert found["wide"] <= 0  # type: ignore[operator]
    assert found["inView"]
    assert found["readable"] >= 20  # type: ignore[operator]
    assert 5 <= found["boxes"] <= 60  # type: ignore[operator]


def test_small_model_is_drawn_whole_with_all_links(tmp_path: Path) -> None:
    found = look(TEN, "return drawn();", tmp_path)
    assert found == {"boxes": 6, "links": 5, "matches": 0, "layers": 4}


def test_all_of_a_thousand_layers_can_be_opened_and_closed(tmp_path: Path) -> None:
    found = look(
        THOUSAND,
        """
        click(document.getElementById("graph-open"));
        const opened = drawn();
        click(document.getElementById("graph-close"));
        return { opened, closed: drawn() };
        """,
        tmp_path,
    )
    opened, closed = found["opened"], found["closed"]
    # Layers, junctions, blocks, ranges of blocks, and the module that holds them.
    assert opened["boxes"] == 1002 + 333 + 334 + 20 + 1  # type: ignore[index]
    assert opened["links"] == len(THOUSAND.links)  # type: ignore[index]
    assert closed["boxes"] == 1  # type: ignore[index]


def test_a_click_opens_a_module_and_another_closes_it(tmp_path: Path) -> None:
    found = look(
        TEN,
        """
        const block = () => units().find((one) => one.unit.label === "block");
        click(block());
        const closed = drawn();
        click(block());
        return { closed: closed.boxes, opened: drawn().boxes };
        """,
        tmp_path,
    )
    assert found == {"closed": 3, "opened": 6}


def test_a_click_on_a_layer_shows_why_in_the_list(tmp_path: Path) -> None:
    found = look(
        TEN,
        """
        click(units().find((one) => one.unit.path === "block.up"));
        const shown = [...document.querySelectorAll("#layers .layer[open]")];
        const text = shown[0].querySelector("pre").textContent;
        return { open: shown.map((one) => one.dataset.path), text };
        """,
        tmp_path,
    )
    assert found == {"open": ["block.up"], "text": "why block.up"}


TOUCH = """
  const svg = document.getElementById("graph");
  const at = (x, y) => {
    const { left, top } = svg.getBoundingClientRect();
    return { clientX: left + x, clientY: top + y };
  };
  const touch = (kind, id, x, y) => svg.dispatchEvent(
    new PointerEvent(`pointer${kind}`, { bubbles: true, pointerId: id, pointerType: "touch", ...at(x, y) }));
  const seen = () => {
    const { e, f, a } = svg.querySelector("g").transform.baseVal.consolidate().matrix;
    return [e, f, a].map((one) => Math.round(1000 * one) / 1000);
  };
"""


def test_one_finger_drags_and_the_browser_may_take_over(tmp_path: Path) -> None:
    found = look(
        TEN,
        TOUCH
        + """
        const start = seen();
        touch("down", 1, 100, 100);
        touch("move", 1, 106, 100);
        const still = seen();
        touch("move", 1, 140, 100);
        const dragged = seen();
        touch("cancel", 1, 140, 100);
        touch("move", 1, 240, 100);
        return {
          action: getComputedStyle(svg).touchAction, still: still[0] - start[0],
          dragged: dragged[0] - start[0], after: seen()[0] - dragged[0],
        };
        """,
        tmp_path,
        (400, 800),
    )
    assert found["action"] == "pan-y"
    assert (found["still"], round(float(str(found["dragged"]))), found["after"]) == (0, 40, 0)


def test_two_fingers_zoom_about_the_point_between_them(tmp_path: Path) -> None:
    found = look(
        TEN,
        TOUCH
        + """
        const start = seen();
        const middle = [(150 - start[0]) / start[2], (120 - start[1]) / start[2]];
        touch("down", 1, 120, 120);
        touch("down", 2, 180, 120);
        touch("move", 1, 90, 120);
        touch("move", 2, 210, 120);
        const now = seen();
        const shown = middle.map((one, axis) => now[axis] + now[2] * one);
        touch("up", 1, 90, 120);
        touch("up", 2, 210, 120);
        return { factor: now[2] / start[2], shown };
        """,
        tmp_path,
        (400, 800),
    )
    assert abs(float(str(found["factor"])) - 2) < 0.01
    shown: Any = found["shown"]
    assert abs(shown[0] - 150) < 1 and abs(shown[1] - 120) < 1


def test_a_tap_opens_and_a_pinch_does_not(tmp_path: Path) -> None:
    found = look(
        TEN,
        TOUCH
        + """
        const block = () => units().find((one) => one.unit.label === "block");
        touch("down", 1, 50, 50); touch("up", 1, 50, 50); click(block());
        const tapped = drawn().boxes;
        touch("down", 1, 50, 50); touch("down", 2, 90, 50); touch("move", 2, 140, 50);
        touch("up", 2, 140, 50); touch("up", 1, 50, 50); click(block());
        return { tapped, pinched: drawn().boxes };
        """,
        tmp_path,
        (400, 800),
    )
    assert found == {"tapped": 3, "pinched": 3}


def test_search_finds_a_layer_deep_in_a_thousand(tmp_path: Path) -> None:
    found = look(
        THOUSAND,
        """
        find("layers.321.UP");
        const box = [...document.querySelectorAll("#graph .match")].at(-1).getBoundingClientRect();
        const graph = document.getElementById("graph").getBoundingClientRect();
        const shown = drawn();
        const said = document.getElementById("found").textContent;
        find("");
        const inView = box.top > graph.top && box.bottom < graph.bottom && box.left > graph.left;
        return { inView, said, layers: shown.layers, matches: shown.matches, after: drawn().matches };
        """,
        tmp_path,
    )
    # The layer and the modules that it is in.
    assert found == {"inView": True, "said": "1 found", "layers": 1, "matches": 4, "after": 0}


def test_names_are_shown_as_they_stand(tmp_path: Path) -> None:
    found = look(
        TEN,
        """
        const names = [...document.querySelectorAll("#graph title")].map((one) => one.textContent);
        return { names, scripts: count("script") };
        """,
        tmp_path,
    )
    assert any(TEN.layers[2].path in str(name) for name in found["names"])  # type: ignore[attr-defined]
    # The report's two and the test's own.
    assert found["scripts"] == 3


@pytest.mark.parametrize("report", [reported([]), reported([TEN.layers[0]])], ids=["none", "one"])
def test_page_without_links_is_drawn(report: Report, tmp_path: Path) -> None:
    assert look(report, "return drawn();", tmp_path)["boxes"] == len(report.layers)


def test_print_shows_all_layers_of_the_list(tmp_path: Path) -> None:
    found = look(THOUSAND, 'dispatchEvent(new Event("beforeprint")); return drawn();', tmp_path)
    assert found["layers"] == 1002
