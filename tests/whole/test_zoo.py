"""torchvision's classifiers with half of every convolution masked: exact, untouched and small."""

from __future__ import annotations

import pytest

from tests.support import vision
from tests.support.tasks import half_of_all_rows
from tests.support.zoo import check_classifier

pytestmark = pytest.mark.skipif(not vision.available(), reason="torchvision is not installed")

_TOLERANCE = 1e-9
_QUICK = (
    "resnet18",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "densenet121",
    "googlenet",
    "shufflenet_v2_x1_0",
    "squeezenet1_1",
    "efficientnet_b0",
    "mnasnet0_5",
    "regnet_y_400mf",
)
# R1 finds nothing to remove in these: their few ungrouped convolutions write into residual streams.
_QUICK_WITH_LINEAR_LAYERS = ("convnext_tiny", "vit_b_32", "swin_t")
# The part of the parameters that may stay, just above what coupling alone leaves.
_PARAMETERS_KEPT = {"resnet50": 0.47, "densenet121": 0.30, "shufflenet_v2_x1_0": 0.60, "mobilenet_v2": 0.53}


@pytest.mark.parametrize("name", _QUICK)
def test_classifier_with_half_the_filters_masked_becomes_smaller_and_stays_the_same(name: str) -> None:
    result = check_classifier(name, also_verified=True)
    result.require_exact(_TOLERANCE)
    assert result.parameters_kept <= _PARAMETERS_KEPT.get(name, 0.99)
    assert result.macs_kept < 0.99


@pytest.mark.parametrize("name", _QUICK_WITH_LINEAR_LAYERS)
def test_classifier_with_half_of_all_rows_masked_becomes_smaller_and_stays_the_same(name: str) -> None:
    result = check_classifier(name, recipe=half_of_all_rows, also_verified=True)
    result.require_exact(_TOLERANCE)
    assert result.parameters_kept < 0.99
    assert result.macs_kept < 0.99


@pytest.mark.zoo
@pytest.mark.parametrize("name", vision.classifiers() if vision.available() else ())
def test_every_classifier_with_half_the_filters_masked_stays_the_same(name: str) -> None:
    check_classifier(name).require_exact(_TOLERANCE)
