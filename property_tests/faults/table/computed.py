"""Weights that torch.nn.utils computes are taken for constants where they are none, or badly made plain."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import BAKING

FAULTS = (
    Fault(
        "computed: a pruned original that another layer uses is the pruned layer's alone",
        "planning.baking",
        "holders[id(held[name])] - going or",
        "holders[id(held[name])] - holders[id(held[name])] or",
        (f"{BAKING}::test_weights_that_are_no_constants_stay_computed", BAKING),
    ),
    Fault(
        "computed: a weight whose own length is masked is plain, without the mask",
        "planning.baking",
        "and not one.way.keeps_places))",
        "and one.way.keeps_places))",
        (f"{BAKING}::test_a_weight_whose_own_parameters_are_masked_stays_computed", BAKING),
    ),
    Fault(
        "computed: a weight that is drawn anew each time is a constant",
        "planning.baking",
        "return torch.equal(value, again) and",
        "return torch.equal(value, value) and",
        (f"{BAKING}::test_weights_beside_one_that_is_drawn_anew_are_plain", BAKING),
    ),
    Fault(
        "computed: what a forward sets before a weight is computed goes unnoticed",
        "planning.baking",
        "and all(a is b and n == m for",
        "and all(a is not None and n == m for",
        (f"{BAKING}::test_what_a_forward_sets_to_what_it_was_is_noticed_too", BAKING),
    ),
    Fault(
        "computed: a forward that looks at originals gets none",
        "planning.baking",
        "    except OutputError:\n        return False",
        "    except OutputError:\n        return True",
        (f"{BAKING}::test_weights_that_are_no_constants_stay_computed", BAKING),
    ),
    Fault(
        "computed: a mask of a pruned original is forgotten",
        "modules.reparametrized",
        "if one.way.keeps_places else None",
        "if not one.way.keeps_places else None",
        (f"{BAKING}::test_masks_of_a_pruned_weight_are_masks_of_the_plain_one", BAKING),
    ),
    Fault(
        "computed: two weights of one original that were pruned alike are two parameters",
        "modules.reparametrized",
        "if _is_same(other, tensor)), tensor)",
        "if not _is_same(other, tensor)), tensor)",
        (f"{BAKING}::test_ties_of_weights_pruned_alike_stay", BAKING),
    ),
    Fault(
        "computed: a hook of spectral_norm still asks state dicts for its originals",
        "modules.reparametrized",
        "and own.fn.name == attribute:\n            del hooks[key]",
        "and own.fn.name != attribute:\n            del hooks[key]",
        (f"{BAKING}::test_computed_weights_that_nothing_feeds_are_plain", BAKING),
    ),
)
