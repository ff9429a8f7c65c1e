"""The benchmarks' own code: sections run on tiny models, and all that is shown comes from what is stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks import consecutive, latency, limit, phases, readme, scale, sparse, sparse_cuda
from benchmarks.figures import FIGURES, draw_all
from benchmarks.growth import exponent
from benchmarks.growth_point import Point, attention, residual
from benchmarks.insight import analysis_of, macs
from benchmarks.limit import hand_built
from benchmarks.recipes import agreeing
from benchmarks.settings import Settings
from benchmarks.store import Store
from benchmarks.tables import TABLES, conditions
from benchmarks.verdicts import record, size_table
from speedup import materialize, plan_speedup
from speedup.sparse.compressed import block_fill
from speedup.sparse.kernels import is_two_of_four
from tests.support import vision
from tests.support.masked_model import normal
from tests.support.measure import AtSize, check_exact

SECTIONS = {
    "limit": limit.run,
    "phases": phases.run,
    "consecutive": consecutive.run,
    "latency": latency.run,
    "sparse": sparse.run,
    "sparse_cuda": sparse_cuda.run,
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The results of a smoke run."""
    made = Store(tmp_path_factory.mktemp("results"))
    threads = torch.get_num_threads()
    try:
        for section in SECTIONS.values():
            section(Settings(made, smoke=True, threads=1))
    finally:
        torch.set_num_threads(threads)
    return made


@pytest.mark.parametrize("section", SECTIONS)
def test_section_measures_its_smallest_model(section: str, store: Store) -> None:
    assert [row.get("failure") for row in store.rows(section).values()] == [None]


def test_small_models_of_a_run_are_exact(store: Store) -> None:
    rows = [*store.rows("limit").values(), *store.rows("consecutive").values()]
    assert all(row["error"] < 1e-9 for row in rows)


def test_sparse_kernels_of_a_run_are_exact(store: Store) -> None:
    (row,) = store.rows("sparse").values()
    assert row["errors"]["float64"] < 1e-12 and row["errors"]["small"] < 1e-4
    assert set(row["latency"]) == {"masked", "small"} and "torch_csr" in row["others"]


def test_masks_for_gpus_keep_two_of_four_or_whole_blocks(store: Store) -> None:
    weight = torch.randn(64, 128)
    kept = sparse_cuda.two_of_four(weight)
    assert is_two_of_four(weight * kept) and int(kept.sum()) == weight.numel() // 2
    assert not is_two_of_four(weight)
    blocks = sparse_cuda.largest_blocks(0.25, 32, weight)
    assert int(blocks.sum()) == weight.numel() // 4
    assert block_fill(weight * blocks, 32) == 1.0
    (row,) = store.rows("sparse_cuda").values()
    assert row["errors"]["small"] < 1e-5 and row["candidates"]


def test_masks_of_single_weights_have_the_sparsity_that_is_asked_for() -> None:
    masks = sparse.unstructured(nn.Sequential(nn.Linear(64, 32), nn.Conv2d(3, 16, 3)), 0.9)
    zero = sum(int((mask == 0).sum()) for mask in masks.values())
    assert zero == round(0.9 * sum(mask.numel() for mask in masks.values()))


def test_shares_of_planning_add_up(store: Store) -> None:
    (row,) = store.rows("phases").values()
    assert sum(row["seconds"].values()) == pytest.approx(row["total"])
    assert row["seconds"]["export"] > 0 and row["seconds"]["fixpoint"] > 0


def test_figures_are_made_from_the_results_alone(store: Store) -> None:
    drawn = draw_all(store)
    assert {path.stem for path in drawn} == set(SECTIONS) & set(FIGURES)
    before = {path: path.read_bytes() for path in drawn}
    assert {path: path.read_bytes() for path in draw_all(store)} == before


def test_tables_say_when_and_on_what_they_were_measured(store: Store) -> None:
    text = readme.rewritten("<!-- benchmark: limit -->\nold\n<!-- end -->\n", store)
    assert "| fpgm_mnist |" in text and "old" not in text
    assert store.section("limit")["machine"]["processor"] in text and "smoke run" in text
    assert readme.rewritten(text, store) == text


def test_pages_show_what_the_stored_results_give() -> None:
    texts = [page.read_text() for page in readme.PAGES]
    assert [readme.rewritten(text, Store()) for text in texts] == texts
    assert all(any(f"<!-- benchmark: {name} -->" in text for text in texts) for name in TABLES)


def test_a_tiny_checkpoint_is_compacted_as_the_large_ones_are(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    made = Store(tmp_path / "results")
    scale.run(Settings(made, smoke=True, threads=1), scratch=tmp_path)
    row = made.rows("scale")["tiny"]
    assert row.get("failure") is None and row["is_equal"]
    assert row["parameters"][1] < row["parameters"][0] and row["extra_bytes"] > 0
    assert "| tiny |" in readme.rewritten("<!-- benchmark: scale -->\n<!-- end -->\n", made)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_stored_results_name_no_host() -> None:
    results = Store().folder
    for path in results.glob("*.json") if results.exists() else ():
        assert set(json.loads(path.read_text())["machine"]) == {"processor", "cores", "memory_gib", "gpu"}


def test_row_is_on_disk_before_the_next_one_is_measured(tmp_path: Path) -> None:
    store, settings = Store(tmp_path), Settings(Store(tmp_path), smoke=True)
    settings.measure("any", "first", lambda: {"number": 1})
    seen: list[Any] = []
    settings.measure("any", "second", lambda: {"number": len(seen), "before": [*store.rows("any")]})
    assert store.rows("any")["second"]["before"] == ["first"]


def test_failure_of_one_row_is_stored_and_ends_nothing(tmp_path: Path) -> None:
    def broken() -> dict[str, Any]:
        raise ValueError("no such thing")

    settings = Settings(Store(tmp_path), smoke=True)
    settings.measure("any", "one", broken)
    assert settings.store.rows("any")["one"]["failure"] == "ValueError: no such thing"


def test_rows_of_other_versions_are_discarded(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.add("any", "old", {"number": 1})
    stored = store.section("any")
    store.path("any").write_text(json.dumps({**stored, "versions": {"torch": "0.1"}}))
    store.add("any", "new", {"number": 2})
    assert [*store.rows("any")] == ["new"]
    assert "torch" in conditions(store, "any")


@pytest.mark.parametrize("power", [0.0, 1.0, 2.5])
def test_exponent_of_a_power_law_is_its_power(power: float) -> None:
    assert exponent([(x, 3 * x**power) for x in (1.0, 10.0, 50.0, 1000.0)]) == pytest.approx(power)


@pytest.mark.parametrize("make", [partial(residual, 2, 8, 8), partial(attention, 2)])
def test_points_of_growth_can_be_planned_and_shrink(make: Callable[[], Point]) -> None:
    made = make()
    plan = plan_speedup(made.model, made.x, made.masks)
    assert plan.parameters_after < plan.parameters_before


def test_layers_need_no_more_than_is_kept() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    mask = torch.ones(8, 1, 1, 1)
    mask[:6] = 0
    x = torch.randn(1, 3, 5, 5)
    before, after, alone = macs(analysis_of(model, x, {"0": {"weight": mask}}))
    assert (before, after, alone) == (25 * (24 + 32), 25 * (6 + 8), 25 * (6 + 8))


def test_model_built_by_hand_computes_the_same() -> None:
    model = vision.build("mobilenet_v2")
    x = vision.images(1, 64, seed=0)
    mask = torch.ones(32, 1, 1, 1)
    mask[::2] = 0
    small = materialize(plan_speedup(model, x, {"features.0.0": {"weight": mask}})).eval()
    by_hand = hand_built(small)
    assert torch.equal(by_hand(x), small(x))
    assert not {id(p) for p in by_hand.parameters()} & {id(p) for p in small.parameters()}


def test_agreeing_masks_leave_nothing_that_stays_masked() -> None:
    model = vision.build("resnet18")
    x = vision.images(1, 64, seed=0)
    masks = agreeing(model, x)
    plan = plan_speedup(model, x, masks)
    masked = sum(int((mask == 0).sum()) for own in masks.values() for mask in own.values())
    assert plan.parameters_before - plan.parameters_after == masked


class _AtLeastEight(nn.Module):
    """Refuses small images."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[-1] >= 8
        return self.layers(x)


def test_errors_are_told_size_by_size() -> None:
    mask = torch.ones(6, 1, 1, 1)
    mask[:2] = 0
    sizes = {size: normal(3, size, size) for size in (8, 5, 9)}
    result = check_exact(
        _AtLeastEight().double().eval(), {"layers.0": {"weight": mask}}, sizes[8], name="net", sizes=sizes
    )
    result.require_exact()
    assert [at.size for at in result.sizes] == [8, 5, 9]
    assert result.sizes[1] == AtSize(5, None)
    assert all(at.error is not None and at.error < 1e-9 for at in (result.sizes[0], result.sizes[2]))
    headings = [column.header for column in size_table([result], "title").columns]
    assert headings == ["model", "planned at", "error there", "5", "9", "untouched"]
    assert json.loads(json.dumps(record(result)))["sizes"][1] == {"size": 5, "error": None}
