"""A pytest plugin: the fixture `equivalent`, which searches for masks under which a small model is wrong.

It imports pytest alone, so that projects that do not use the fixture do not wait for torch.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest


@pytest.fixture(scope="session")
def equivalent() -> Callable[..., None]:
    """`equivalent(model, x)` asserts that small models are the masked ones, for masks of all kinds.

    `examples` says how many masks are tried; other keywords are those of `assert_equivalent`, as `others`
    for further calls that the plan has to hold for. A failure shows the smallest masks found, as Python
    source. Hypothesis makes the search where it is installed; else masks are drawn from seeds.
    """
    if find_spec("hypothesis") is None:
        from speedup.testing.seeded import search_seeded

        return search_seeded
    from hypothesis import HealthCheck, Phase, given, settings

    from speedup.testing import assert_equivalent, masks_for

    def search(model: Any, x: Any, *, examples: int = 20, **options: Any) -> None:
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            derandomize=True,
            report_multiple_bugs=False,
            # What lines of the library a failure ran takes long to find and tells a user nothing.
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(masks_for(model))
        def is_equivalent(masks: Any) -> None:
            assert_equivalent(model, x, masks, **options)

        is_equivalent()

    return search
