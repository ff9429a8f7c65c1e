"""The HTML report: well-formed, self-contained, with nothing of a name taken for markup."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from attrs import evolve
from torch import nn

from speedup import plan_speedup
from speedup.ir.report import Alignment, Asked, Blocker, Junction, Misaligned, Report
from speedup.rendering.counts import short_count
from speedup.rendering.page.document import html_report
from speedup.rendering.page.fragment import html_table
from speedup.rendering.rows import sizes_line
from speedup.rendering.tree import Branch, Leaf, branches_to_open, leaves, tree_of
from speedup.rendering.verdict import verdict
from speedup.rendering.versions import made_today
from tests.support.reports import HOSTILE, linear, reported, residual, small

VOID = frozenset("br input meta link img hr".split())


class Parsed(HTMLParser):
    """All elements with their attributes, the text outside of scripts, and what is not closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)
        elif not self.open or self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())

    def named(self, tag: str, **wanted: str) -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and all(attributes.get(key) == value for key, value in wanted.items())
        ]


def why(path: str) -> str:
    return f"why {path}"


def page(report: Report) -> str:
    return html_report(report, why, "A title")


@pytest.fixture(scope="module")
def parsed() -> Parsed:
    return Parsed(page(small()))


@pytest.mark.parametrize("report", [small(), residual(334), reported([]), reported([linear("")])])
def test_page_is_well_formed(report: Report) -> None:
    text = page(report)
    found = Parsed(text)
    assert text.startswith("<!DOCTYPE html>")
    assert found.open == found.wrong == []
    assert [tag for tag, _ in found.elements[:2]] == ["html", "head"]


@pytest.mark.parametrize("report", [small(), residual(334)])
def test_page_refers_to_nothing_outside_of_it(report: Report) -> None:
    found = Parsed(page(report))
    assert not {tag for tag, _ in found.elements} & set("link img iframe object embed base a".split())
    for _, attributes in found.elements:
        assert not {"src", "href", "srcset", "action", "data"} & set(attributes)
    text = page(report).replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\((?!#)", text)


def test_page_forbids_the_browser_to_load_anything(parsed: Parsed) -> None:
    (policy,) = parsed.named("meta", **{"http-equiv": "Content-Security-Policy"})
    assert str(policy["content"]).startswith("default-src 'none';")


def test_names_are_text_wherever_they_stand(parsed: Parsed) -> None:
    # Path, reason of a layer, reason and place of a constraint, operator, island, what is outside, line
    # of an assumption: each once.
    assert parsed.words.count(HOSTILE) >= 9
    assert len(parsed.named("script")) == 2
    assert f"block.{HOSTILE}" in [attributes.get("data-path") for attributes in parsed.named("details")]
    assert "alert(1)" not in parsed.scripts[-1]


def test_title_is_text() -> None:
    found = Parsed(html_report(small(), why, HOSTILE))
    assert found.words.startswith(f"{HOSTILE} {HOSTILE}")
    assert found.open == found.wrong == []


def graph(text: str) -> dict[str, object]:
    data = json.loads(Parsed(text).scripts[0])
    assert isinstance(data, dict)
    return data


def test_data_of_the_graph_names_layers_and_links_them() -> None:
    data = graph(page(small()))
    paths: dict[int, str] = {}

    def walk(box: dict) -> None:  # type: ignore[type-arg]
        for child in box.get("children", ()):
            walk(child)
        if "id" in box:
            paths[box["id"]] = box["path"]

    walk(data["root"])  # type: ignore[arg-type]
    found = {(paths[a], paths[b]) for a, b in data["links"]}  # type: ignore[attr-defined]
    assert found == set(small().links)


def test_page_tells_totals_and_shares(parsed: Parsed) -> None:
    report = small()
    for before, after in (report.parameters, report.macs):
        assert f"{short_count(before)} → {short_count(after)}" in parsed.words
        assert parsed.named("p", title=f"{before:,} → {after:,}")
        assert f"−{1 - after / before:.1%}" in parsed.words


def test_page_tells_why_for_each_layer(parsed: Parsed) -> None:
    for layer in small().layers:
        assert why(layer.path) in parsed.words


def test_page_lists_constraints_operators_islands_and_what_is_not_planned(parsed: Parsed) -> None:
    headings = ("What could go but stays", "Operators without a rule", "Planned each on its own")
    for part in (
        *headings,
        "aten.add.Tensor in block",
        "1.23M",
        "890",
        "3 of 64",
        "What is not planned itself",
    ):
        assert part in parsed.words


def test_constraints_beyond_a_screen_are_folded_away() -> None:
    blockers = tuple(Blocker(f"reason {i}", "", "", (f"layer{i}",), 1, 1, 1) for i in range(100))
    found = Parsed(page(reported([linear("one")], blockers=blockers)))
    assert "80 more constraints" in found.words
    assert [found.words.count(f"reason {i} ") for i in (0, 19, 20, 99)] == [2, 1, 1, 1]


def test_page_tells_what_alignment_costs_and_misses() -> None:
    missed = (Misaligned(HOSTILE, "out", 12, 64, 16),)
    report = reported([linear("one")], alignment=Alignment("multiples of 8", 4, (10, 11), (20, 22), missed))
    words = Parsed(page(report)).words
    for part in (str(report.alignment), HOSTILE, "12 of 64 out", "Alignment"):
        assert part in words


def test_page_of_a_plan_without_any_of_these_has_no_headings_for_them() -> None:
    words = Parsed(page(reported([linear("one")]))).words
    for heading in ("What could go but stays", "without a rule", "on its own", "not planned", "Alignment"):
        assert heading not in words


def test_bars_show_what_is_left_of_each_layer(parsed: Parsed) -> None:
    report = reported([linear("one", 100, 25), linear("two", 50, 50)])
    found = Parsed(page(report))
    widths = [a["style"] for a in found.named("span") if a.get("class") in ("before", "after")][4:]
    assert widths == [f"width:{w}" for w in ("100%", "25%", "100%", "25%", "50%", "100%", "50%", "100%")]


def test_thousand_layers_make_a_page_of_about_a_megabyte() -> None:
    report = residual(334)
    assert len(report.layers) == 1002
    assert len(page(report).encode()) < 1_300_000


def test_thousand_layers_are_shown_closed() -> None:
    shown = [a for a in Parsed(page(residual(334))).named("details") if "module" in str(a.get("class"))]
    assert len(shown) > 300
    assert sum("open" in attributes for attributes in shown) < 40


def test_report_of_a_model_is_written_to_a_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0])
    plan = plan_speedup(model, torch.randn(2, 4), {"0.weight": mask[:, None], "0.bias": mask})
    plan.write_report(tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text == plan.to_html()
    assert Parsed(text).words.startswith(
        f"Sequential Sequential Sequential with x (2, 4), masks on 2 parameters {made_today()} "
        f"{str(plan).splitlines()[0]} Parameters"
    )
    assert f"torch {torch.__version__}" in made_today() and re.match(r"\d{4}-\d\d-\d\d, ", made_today())
    assert plan.explain("2") in Parsed(text).text


def test_notebook_shows_a_table_with_the_same_rows_as_the_terminal() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    mask = torch.tensor([1.0, 1, 1, 1, 0, 0])
    plan = plan_speedup(model, torch.randn(2, 4), {"0.weight": mask[:, None], "0.bias": mask})
    found = Parsed(plan._repr_html_())
    assert found.open == found.wrong == []
    assert not found.named("script")
    for part in ("Linear(4, 6) -> (4, 4)", "30 -> 20 (67%)", "parameters 44 -> 30 (68%)"):
        assert part in found.words


def test_page_and_notebook_list_what_the_plan_relies_on() -> None:
    lines = ("x.shape[2] % 2 == 0 (at line 41 of merge.py); other sizes cannot be traced", "x.shape[3] < 9")
    report = reported([linear("one")], assumptions=lines)
    for text, heading in (
        (page(report), "What the plan relies on"),
        (html_table(report), "The plan relies on:"),
    ):
        assert heading in Parsed(text).words
        assert [item.text for item in ElementTree.fromstring(_listed(text))] == list(lines)
    for text in (page(reported([linear("one")])), html_table(reported([linear("one")]))):
        assert "relies on" not in Parsed(text).words


def _listed(text: str) -> str:
    (found,) = re.findall(r"<ul>.*?</ul>", text)
    return str(found)


def test_page_has_megabytes_and_what_is_held_back_in_its_first_row() -> None:
    report = evolve(
        reported([linear("a", 100, 60)], size=(46_800_000, 17_100_000)),
        asked=Asked(1, 57_600, 28_800, 28_800, parameters=5_760, macs=0),
    )
    words = Parsed(page(report)).words
    assert "MB on disk −63.5% 46.8 → 17.1" in words
    assert "asked for 50.0%, held back 10.0%" in words
    assert "MB on disk" not in Parsed(page(evolve(report, size=None))).words


def test_page_begins_with_reasons_summed_over_the_model_and_what_would_help() -> None:
    blockers = tuple(
        Blocker("needs them", "aten.add_.Tensor", f"block.{n}", (f"block.{n}",), 1, 100_000, 10)
        for n in range(9)
    )
    words = Parsed(page(evolve(small(), blockers=blockers))).words
    assert words.index("What holds back most") < words.index("Graph")
    assert words.count("skip connections and other sums") == 1
    assert "block.0 and 8 more" in words and "mask the same channels in all of them" in words
    assert "What holds back most" not in Parsed(page(reported([linear("one")]))).words


def test_page_says_first_where_nothing_shrinks() -> None:
    report = evolve(reported([linear("a", 10, 10)]), asked=Asked(0, 100, 0, 0, 0, 0))
    words = Parsed(page(report)).words
    assert words.index("Nothing shrinks: there are no masks") < words.index("Parameters")


def test_notebook_folds_modules_into_one_another() -> None:
    found = Parsed(html_table(residual(5)))
    assert found.open == found.wrong == []
    # The model, its five blocks, and the table of all layers; none of them open.
    folds = found.named("details")
    assert len(folds) == 1 + 5 + 1
    assert not any("open" in attributes for attributes in folds)
    assert "model.layers" in found.words and "All layers that change" in found.words


def test_notebook_says_what_is_the_case_first_and_why_what_stays_does() -> None:
    words = Parsed(html_table(small())).words
    assert words.startswith(f"{verdict(small())} : {sizes_line(small())}")
    assert not re.search(r"\d,\d{3},\d{3}", words.partition("All layers that change")[0])
    assert "What could go but stays:" in words


def test_notebook_takes_no_name_for_markup() -> None:
    found = Parsed(html_table(small()))
    assert found.open == found.wrong == []
    assert not found.named("script")
    assert HOSTILE in found.words


def labels(branch: Branch) -> Iterator[str]:
    for child in branch.children:
        yield child.label
        if isinstance(child, Branch):
            yield from labels(child)


def test_tree_follows_the_modules_and_joins_chains_of_them() -> None:
    report = reported([linear("a.b.c.one"), linear("a.b.c.two"), linear("a.d.e")])
    assert list(labels(tree_of(report))) == ["a", "b.c", "one", "two", "d.e"]


def test_tree_tells_a_layer_from_the_layers_in_it() -> None:
    report = reported([linear(""), linear("encoder"), linear("encoder.layer"), linear("encoder.(itself)")])
    tree = tree_of(report)
    assert list(labels(tree)) == ["(model)", "encoder", "(itself)", "layer", "(itself)"]
    assert tree.layers == 4


def test_totals_of_a_branch_are_those_of_its_layers() -> None:
    tree = tree_of(residual(334))
    assert (tree.parameters, tree.macs) == (residual(334).parameters, residual(334).macs)
    assert tree.changed == 668


def test_a_junction_stands_behind_what_it_reads() -> None:
    names = [leaf.name for leaf in leaves(tree_of(residual(3)))]
    for number in (1, 2):
        assert names.index(f"model.layers.{number} (add)") > names.index(f"model.layers.{number}.down")


def test_many_siblings_are_put_into_ranges() -> None:
    tree = tree_of(reported([linear(f"layer{i}") for i in range(5000)]))

    def most(branch: Branch) -> int:
        inner = [most(child) for child in branch.children if isinstance(child, Branch)]
        return max(len(branch.children), *inner) if inner else len(branch.children)

    assert most(tree) <= 40
    assert [leaf.name for leaf in leaves(tree)] == [f"layer{i}" for i in range(5000)]
    assert tree.children[0].label == "layer0 … layer249"


def test_whole_levels_are_open_and_no_more_than_asked_for() -> None:
    tree = tree_of(reported([linear(f"{i}.{j}.{k}") for i in range(3) for j in range(4) for k in "ab"]))
    for most, levels in ((3, 1), (15, 2), (38, 2), (39, 3)):
        shown = branches_to_open(tree, most)
        depth = {id(tree): 1}
        for branch in (tree, *(c for c in tree.children if isinstance(c, Branch))):
            depth |= {id(c): depth[id(branch)] + 1 for c in branch.children if isinstance(c, Branch)}
        assert {number for number in depth if depth[number] <= levels} == shown


def test_a_model_that_is_one_layer_is_a_tree_of_one_leaf() -> None:
    (only,) = tree_of(reported([linear("")], junctions=())).children
    assert isinstance(only, Leaf)
    assert not isinstance(only.of, Junction)
