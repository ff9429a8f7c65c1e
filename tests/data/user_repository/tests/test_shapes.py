import torch
from hypothesis import Phase, given, settings
from shapes.model import ShapeNet

from speedup.testing import assert_equivalent, masks_for

settings.register_profile(
    "ci",
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    report_multiple_bugs=False,
    phases=[Phase.generate, Phase.shrink],
)
settings.load_profile("ci")

MODEL, X = ShapeNet(), torch.randn(2, 1, 8, 8)


@given(masks_for(MODEL))
def test_small_model_is_equivalent(masks):
    assert_equivalent(MODEL, X, masks)


def test_small_model_is_equivalent_for_many_masks(equivalent):
    equivalent(MODEL, X, examples=5)
