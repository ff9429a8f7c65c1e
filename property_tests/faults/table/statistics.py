"""What is left does not make up for what is gone: norms that count, lengths of weights."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import FEATURES, PHRASING, REPARAMETRIZED, SEQUENCES, sliced

FAULTS = (
    Fault(
        "statistics: constants do not count among the norms of slices",
        "rules.reduction",
        "yield Pinned((data.index, dim), adds, any_along(counts, dim, data.shape[dim]))",
        "yield Pinned((data.index, dim), adds, any_along(~counts & counts, dim, data.shape[dim]))",
        ("tests/rules/test_renorm.py::test_masked_channels_go_through_renorm",),
    ),
    Fault(
        "statistics: a partial LayerNorm forgets how many are gone",
        "rules.layer_norm",
        "PartialLayerNorm(gone.numel(), total,",
        "PartialLayerNorm(0, total,",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: a partial LayerNorm forgets the squares of what is gone",
        "rules.layer_norm",
        "float(gone.sum()), float(gone.square().sum()))",
        "float(gone.sum()), 0.0)",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: a partial LayerNorm forgets the sum of what is gone",
        "lowerings.partial_layer_norm",
        "mean = (wide.sum(dims, keepdim=True) + dropped_sum) / total",
        "mean = wide.sum(dims, keepdim=True) / total",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: a partial LayerNorm divides by what is left",
        "rules.layer_norm",
        "PartialLayerNorm(gone.numel(), total,",
        "PartialLayerNorm(gone.numel(), total - gone.numel(),",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: RMSNorm's epsilon is not scaled",
        "rules.layer_norm",
        "return float(squares + total * _epsilon(site.op)) / left",
        "return float(squares + left * _epsilon(site.op)) / left",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: RMSNorm's epsilon forgets the squares of what is gone",
        "rules.layer_norm",
        "squares = float(_dropped(site, kept).square().sum())",
        "squares = 0.0 * float(_dropped(site, kept).square().sum())",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: RMSNorm's weight is scaled by the inverse",
        "rules.layer_norm",
        "math.sqrt(total / left) - 1",
        "math.sqrt(left / total) - 1",
        (FEATURES, SEQUENCES),
    ),
    Fault(
        "statistics: a mean is taken over what is left",
        "rules.reduction",
        "return all(kept.is_full((data.index, d)) for d in _dims(site.op))",
        "return True",
        (*sliced("mean"), PHRASING),
    ),
    Fault(
        "statistics: the lengths of weight_norm are not corrected",
        "rules.reparametrized",
        "ratio = torch.where(whole == 0, 1.0, part / whole)",
        "ratio = torch.where(whole == 0, 1.0, torch.ones_like(part))",
        (REPARAMETRIZED,),
    ),
    Fault(
        "statistics: lengths change although something else reads them",
        "rules.reparametrized",
        "        state and alike and unread and site",
        "        alike and unread and site",
        (REPARAMETRIZED,),
    ),
)
