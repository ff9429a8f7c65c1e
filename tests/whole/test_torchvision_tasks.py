"""torchvision's models for segmentation, detection, video and optical flow: exact, untouched and small."""

from __future__ import annotations

import pytest

from tests.support import vision

if not vision.available():
    pytest.skip("torchvision is not installed", allow_module_level=True)

from tests.support.tasks import TASKS, check_task

_TOLERANCE = 1e-9
# The part of the parameters that may stay, just above what coupling alone leaves.
_QUICK = {
    "lraspp_mobilenet_v3_large": 0.9,
    "fasterrcnn_mobilenet_v3_large_fpn": 0.95,
    "r3d_18": 0.7,
    "raft_small": 0.9,
}


@pytest.mark.parametrize(("name", "kept"), _QUICK.items())
def test_model_with_half_the_filters_masked_becomes_smaller_and_stays_the_same(
    name: str, kept: float
) -> None:
    result = check_task(name, also_verified=True)
    result.require_exact(_TOLERANCE)
    assert result.parameters_kept <= kept
    assert result.macs_kept < 0.99


@pytest.mark.zoo
@pytest.mark.parametrize("name", TASKS)
def test_every_task_with_half_the_filters_masked_stays_the_same(name: str) -> None:
    check_task(name, also_verified=True).require_exact(_TOLERANCE)
