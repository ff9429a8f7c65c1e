"""Which tests of the suite are held against a fault: arguments of pytest, by what they claim.

This is the only place that names tests.
"""

from __future__ import annotations

_NETWORKS = "property_tests/test_networks.py"
_SMALL = f"{_NETWORKS}::test_small_model_equals_masked_model_and_given_model_is_untouched"

# Laws of whole networks that Hypothesis draws.
IMAGES, SEQUENCES, OTHERS, PAIRS = (f"{_SMALL}[{f}]" for f in ("image", "sequence", "other", "pair"))
NETWORKS = (IMAGES, SEQUENCES, OTHERS, PAIRS)
_SIZED = (
    "property_tests/test_sizes.py::test_small_model_equals_masked_model_at_sizes_that_were_not_planned_for"
)
SIZED_SEQUENCES, SIZED_PAIRS = (f"{_SIZED}[{f}]" for f in ("sequence", "pair"))
VALUES = f"{_NETWORKS}::test_plans_are_values_and_materializing_leaves_nothing_to_cut"
ANALYSES = "property_tests/test_analyses.py"
FIXPOINT = "property_tests/test_fixpoint.py"
LAWS = "property_tests/test_laws.py"
ENGINE = "property_tests/test_keepsets.py"
BORDERS = "tests/engine/test_borders.py"
DEAD_ATTENTION = "tests/planning/test_dead_attention.py"
DEAD_BRANCHES = "tests/planning/test_dead_branches.py"
OWN_SHAPES = "tests/planning/test_own_shapes.py"
PADDED_CHANNELS = "tests/planning/test_padded_channels.py"
RESTATED = "tests/forwards/test_restated.py"
KEPT_FUNCTIONS = "tests/forwards/test_kept_functions.py"
SPREADING = "tests/lowerings/test_spreading.py"
CHAINS = "tests/analyses/test_chains.py"
FILLS = "tests/planning/test_fills.py"
FORWARD_SOURCES = "tests/forwards/test_source.py"
GAPS = "tests/analyses/test_fills.py"
GATES = "tests/planning/test_gates.py"
MAPS = "tests/planning/test_border_maps.py"
INSERTING = "tests/ir/test_inserting.py"
ROWS = "tests/planning/test_rows.py"
FRESH = "tests/forwards/test_fresh.py"
SUMS = "tests/analyses/test_partial_sums.py"
SUPPORTS = "tests/engine/test_supports.py"
SHUFFLES = "tests/planning/test_shuffles.py"
CARRIERS = "tests/planning/test_carriers.py"
ABSORPTION = "tests/rules/test_absorption.py"
SPARSE = "property_tests/test_sparse.py"
SPARSE_FILES = "tests/sparse/test_files.py"
SPARSE_LAYERS = "tests/sparse/test_layers.py"
SPARSE_ATTENTION = "tests/sparse/test_attention.py"
PLANNED_AGAIN = "tests/planning/test_traced.py"
TRACES = "tests/tracing/test_captured.py"
FORMS = "tests/tracing/test_forms.py"
TUNING = "tests/sparse/test_tuning.py"
KEEPSETS = "tests/engine/test_keepsets.py"

# An operator's rule against the operator itself, on generated operands.
CONTRACTIONS = "tests/rules/test_contraction.py"
EINSUMS = "tests/rules/test_einsum.py"
LAYOUTS = "tests/rules/test_layout_rules.py"
NORMS = "tests/rules/test_normalization.py"
DISTRIBUTED = "tests/test_distributed.py"
ADAPTERS = "tests/cutting/test_adapters.py"
BOXES = "tests/cutting/test_boxes.py"
WITHOUT_DATA = "tests/whole/test_without_data.py"
LATTICE = "tests/engine/test_lattice.py"
POINTWISE = "tests/rules/test_pointwise.py"
POSITIONS = "tests/rules/test_positions.py"
EVERY_NUMBER = "tests/analyses/test_every_size.py"
BOUNDED = "tests/rules/test_bounded.py"
STEADINESS = "tests/analyses/test_steadiness.py"
FIXED_POSITIONS = "tests/rules/test_fixed_positions.py"
REDUCTIONS = "tests/rules/test_reduction.py"
OTHER_BATCHES = f"{REDUCTIONS}::test_what_is_called_known_is_so_at_other_batch_sizes"


def known(rules: str) -> str:
    """What a family's rules call constant is so."""
    return f"{rules}::test_what_is_called_known_is_that_constant_for_every_input"


def dead(rules: str) -> str:
    """What a family's rules call dead changes nothing."""
    return f"{rules}::test_what_is_called_dead_does_not_change_live_results"


_OPERATORS = "tests/rules/test_every_operator.py"


def _of_operators(law: str, operators: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{_OPERATORS}::{law}[aten.{operator}]" for operator in operators)


def unchanging(*operators: str) -> tuple[str, ...]:
    """What the rules of these operators of ATen call constant is so."""
    return _of_operators("test_what_is_called_known_never_changes", operators)


def unread(*operators: str) -> tuple[str, ...]:
    """What their rules call dead changes nothing."""
    return _of_operators("test_what_is_called_dead_never_matters", operators)


def sliced(*operators: str) -> tuple[str, ...]:
    """What is kept of their results is made from what is kept of their operands."""
    return _of_operators("test_what_is_kept_comes_out_the_same_of_what_is_kept", operators)


# Generated masks around one kind of layer.
GROUPS = "tests/rules/test_grouped.py"
FEATURES = "tests/rules/test_layer_norm.py"
RECURRENT = "tests/rules/test_recurrent.py"
REPARAMETRIZED = "tests/rules/test_reparametrized.py"
LAYOUTS_IN_MEMORY = "tests/modules/test_layouts.py"
MASK_FORMS = "tests/masks/test_mask_forms.py"
BAKING = "tests/planning/test_baking.py"
# What people see and give.
OVERVIEW = "tests/rendering/test_overview.py"
CAUSES = "tests/rendering/test_causes.py"
GOALS = "tests/pruners/test_goals.py"
ESTIMATES = "tests/measuring/test_estimating.py"
SAVING = "tests/files/test_saving.py"
VERIFYING = "tests/building/test_verify.py"
SANDWICHES = "tests/rules/test_sandwiches.py"
_EXACT_AROUND = f"{SANDWICHES}::test_a_network_around_the_operator_stays_exact"


def exact_around(name: str, gone: str = "zeros") -> str:
    """A network around one operator stays exact when channels go that are zeros, or constants."""
    return f"{_EXACT_AROUND}[{name}-{gone}]"


ZERO_IN_ONE = f"{SANDWICHES}::test_channels_that_are_zero_in_one_and_constant_in_the_other_are_exact"
STATED = "tests/rules/test_stated.py"
HEADS = "tests/whole/test_attention_heads.py"
WIDTHS = "tests/whole/test_attention_widths.py"
LATENCY = "tests/measuring/test_latency.py"
PRODUCTS = "tests/rules/test_weight_products.py"
ATTENTION = "tests/modules/test_attention.py"

# Other sizes, other calls, numbers read from tensors.
EVERY_SIZE = "tests/whole/test_every_size.py"
CACHED = f"{EVERY_SIZE}::test_cached_arithmetic_on_sizes_holds_nothing_back"
REMEMBERED = "tests/whole/test_remembered_tables.py"
SEVERAL = "tests/whole/test_several_calls.py"
NUMBERS = "tests/tracing/test_numbers_from_tensors.py"
IN_C = "tests/whole/test_sizes_in_c.py"
APART = "tests/whole/test_taken_apart.py"
DRAWS = "tests/building/test_draws.py"


def sequences_of(*names: str) -> tuple[str, ...]:
    """One plan holds at every length, for these models."""
    return tuple(f"{EVERY_SIZE}::test_plan_holds_for_sequences_of_every_length[{name}]" for name in names)


def images_of(*names: str) -> tuple[str, ...]:
    """The same for images."""
    return tuple(f"{EVERY_SIZE}::test_plan_holds_for_images_of_every_size[{name}]" for name in names)


# What a plan and a small model promise, case by case.
ATTRIBUTES = "tests/modules/test_attributes.py"
CONSTRAINTS = "tests/engine/test_constraints.py"
COPYING = "tests/modules/test_copying.py"
CUTTING = "tests/cutting/test_tensors.py"
STATES = "tests/cutting/test_states.py"
OPTIMIZERS = "tests/cutting/test_optimizers.py"
CHECKPOINTS = "tests/checkpoints/test_compacting.py"
DEVICES = "tests/building/test_devices.py"
STREAMING = "tests/building/test_streaming.py"
STOCK = "tests/checkpoints/test_stock.py"
UNIFORM = "tests/test_uniform.py"
LOADING = "tests/hf/test_loading.py"
TEXTS = "tests/text/test_plan_json.py"
COUPLING = "tests/planning/test_coupling.py"
CUSTOM_RULES = "tests/rules/test_custom_rule.py"
FITTING = "tests/forwards/test_fitting.py"
ALTERNATIVES = "tests/forwards/test_alternatives.py"
FUNCTIONAL = "tests/lowerings/test_functional.py"
ISLANDS = "tests/tracing/test_islands.py"
NAMED = "tests/tracing/test_trace.py::test_error_names_the_module_that_raised"
COMPILED = f"{ISLANDS}::test_what_a_forward_compiles_stays_apart_and_the_rest_is_planned"
LAYOUT_BLOCKS = "tests/engine/test_layout.py"
MATERIALIZE = "tests/building/test_materialize.py"
MERGING = "tests/tracing/test_merging.py"
NATIVE = "tests/building/test_native.py"
PLANNER = "tests/planning/test_planner.py"
PHRASING = "tests/forwards/test_phrasing.py"
REHEARSAL = "tests/planning/test_rehearsal.py"
REWRITING = "tests/forwards/test_rewriting.py"
REWRITTEN = "tests/modules/test_rewritten.py"
SOLVING = "tests/forwards/test_solving.py"
TRACE = "tests/tracing/test_trace.py"

# What the control has to pass.
EVERY = (
    *NETWORKS,
    *(
        VALUES,
        LAWS,
        ANALYSES,
        FIXPOINT,
        ENGINE,
        _OPERATORS,
        CONTRACTIONS,
        EINSUMS,
        LAYOUTS,
        NORMS,
        POINTWISE,
        POSITIONS,
        REDUCTIONS,
    ),
    *(GROUPS, FEATURES, RECURRENT, REPARAMETRIZED, SANDWICHES, STATED, HEADS, WIDTHS, ATTENTION),
    *(ATTRIBUTES, CONSTRAINTS, COPYING, COUPLING, CUSTOM_RULES, FITTING, FUNCTIONAL, ISLANDS, KEEPSETS),
    *(LAYOUT_BLOCKS, MATERIALIZE, MERGING, NATIVE, PLANNER, PHRASING, REHEARSAL, REWRITING),
    *(REWRITTEN, SOLVING, TRACE, SIZED_SEQUENCES, SIZED_PAIRS, EVERY_SIZE, SEVERAL, NUMBERS, DRAWS),
    *(
        WITHOUT_DATA,
        LATTICE,
        CUTTING,
        STATES,
        OPTIMIZERS,
        CHECKPOINTS,
        DEVICES,
        STREAMING,
        TEXTS,
        STOCK,
        UNIFORM,
        LOADING,
    ),
)
