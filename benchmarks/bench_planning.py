"""Planning and materializing of single models under pytest-benchmark.

`python -m pytest benchmarks/bench_planning.py`. Not among the tests: nothing is asserted, only
timed, and only when asked for.
"""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.subjects import subject
from speedup import materialize, plan_speedup

MODELS = ("fpgm_mnist", "resnet18", "mobilenet_v2", "vit_b_16")


@pytest.mark.parametrize("name", MODELS)
def test_plan(name: str, benchmark: Any) -> None:
    one = subject(name)
    x = one.inputs(1, 0)
    benchmark.pedantic(plan_speedup, (one.model, x, one.masks), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("name", MODELS)
def test_materialize(name: str, benchmark: Any) -> None:
    one = subject(name)
    plan = plan_speedup(one.model, one.inputs(1, 0), one.masks)
    benchmark.pedantic(materialize, (plan,), {"verify": "none"}, rounds=5, warmup_rounds=1)
