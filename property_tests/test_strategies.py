"""Facts about the strategies themselves, without which the laws would hold for lack of examples."""

from __future__ import annotations

import functools

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from speedup.ir.inputs import example_from
from speedup.testing import modules
from speedup.testing.grammar.sized import looks_at_sizes
from speedup.testing.masks import MaskSpec, Scattered, Slices, Whole
from speedup.testing.networks import FAMILIES, Family, Input, Network, build
from speedup.testing.oracle import assert_same_output, masked_copy, output_of, run
from speedup.testing.snapshots import model_state, process_state, tensor_bytes
from speedup.testing.spec import Spec
from speedup.testing.strategies import Case, cases

# A survey looks at its examples as a whole, so it must see the same ones on every run.
_SURVEY = settings(
    max_examples=400,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)

_OWN_BLOCKS = set(modules.__all__) - {"Prediction", "Result"}
_TORCH_BLOCKS = {
    *("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "Embedding"),
    *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "GroupNorm", "InstanceNorm1d", "InstanceNorm2d"),
    *("LayerNorm", "RMSNorm", "LocalResponseNorm", "Dropout", "Identity", "Sequential"),
    *("ReLU", "GELU", "SiLU", "Sigmoid", "Hardswish", "LeakyReLU", "ELU", "Tanh", "Softplus", "PReLU"),
    *("MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Upsample", "GLU"),
    *("ChannelShuffle", "PixelShuffle", "PixelUnshuffle", "Flatten", "Unflatten"),
}
_OPTIONS = {
    *("bias", "groups", "stride", "dilation", "padding", "padding=same", "output_padding"),
    *("padding_mode=reflect", "padding_mode=replicate", "padding_mode=circular"),
    *("affine", "elementwise_affine", "track_running_stats", "count_include_pad", "ceil_mode"),
    *("inplace", "in_place", "sizes", "add", "step", "shifted", "norm", "causal", "chunked", "norm_first"),
    *("mode=bilinear", "align_corners", "taps", "asked", "added", "trained", "gate", "counted", "last"),
    *("kind=lstm", "kind=tanh", "kind=relu", "layers", "bidirectional", "batch_first"),
    *("outputs=tuple", "outputs=dict", "outputs=named tuple", "outputs=dataclass"),
}


@functools.cache
def survey(family: Family, number: int = 0) -> tuple[Case, ...]:
    """Different examples of a family, in the order in which Hypothesis draws them; each number has others."""
    found: dict[Network, Case] = {}

    @seed(number)
    @_SURVEY
    @given(cases(family))
    def collect(case: Case) -> None:
        found.setdefault(case.network, case)

    collect()
    return tuple(found.values())


def sample(family: Family, count: int) -> list[Case]:
    """Some of the survey's examples, spread evenly over it."""
    surveyed = survey(family)
    return list(surveyed[:: max(1, len(surveyed) // count)])


def test_every_kind_of_block_and_option_is_drawn() -> None:
    missing = _TORCH_BLOCKS | _OPTIONS | _OWN_BLOCKS
    for number in range(6):
        for family in FAMILIES:
            for case in survey(family, number):
                for spec in case.network.module.walk():
                    missing -= _features(spec)
        if not missing:
            break
    assert missing == set()


def test_masks_of_every_kind_and_style_are_drawn() -> None:
    drawn = [case.masks for family in FAMILIES for case in survey(family)]
    assert {masks.style for masks in drawn} == {"by name", "by module", "baked"}
    assert {masks.dtype for masks in drawn} == {"float32", "bool"}
    cuts = [cut for masks in drawn for cut in masks.cuts]
    assert {type(cut) for cut in cuts} == {Slices, Scattered, Whole}
    assert {0, 1} <= {cut.dim for cut in cuts if isinstance(cut, Slices)}


@pytest.mark.parametrize("family", FAMILIES)
def test_repr_of_a_network_is_an_expression_that_makes_it(family: Family) -> None:
    kinds = {**vars(nn), **{name: getattr(modules, name) for name in _OWN_BLOCKS}}
    scope = {name: functools.partial(Spec.of, kind) for name, kind in kinds.items() if _is_module(kind)}
    for case in survey(family):
        assert eval(repr(case.network), {**scope, "Network": Network, "Input": Input}) == case.network


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_can_be_exported_and_run_at_other_batch_sizes(family: Family) -> None:
    for case in sample(family, 30):
        model = case.model().eval()
        torch.export.export(model, case.inputs(case.batch), strict=False)
        for batch in (1, 3):
            for leaf in _tensors(run(model, case.inputs(batch))):
                assert leaf.shape[0] == batch
                assert leaf.isfinite().all()


def test_networks_that_look_at_sizes_take_many_others_and_further_calls_are_drawn() -> None:
    drawn = [case for family in FAMILIES for case in survey(family)]
    sized = [case.network for case in drawn if looks_at_sizes(case.network.module)]
    assert 0.05 * len(drawn) < len(sized) < 0.5 * len(drawn)
    assert sum(len(network.elsewhere) >= 5 for network in sized) > 0.4 * len(sized)
    assert {len(case.network.calls) for case in drawn} == {0, 1}
    assert {type(one) for case in drawn for call in case.network.calls for one in call} == {Input, str}


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_can_be_called_as_they_say(family: Family) -> None:
    for case in sample(family, 30):
        model = case.model().eval()
        for call in (*case.calls(), *case.elsewhere()):
            example = example_from(call)
            batch = example.tensors[0].shape[0]
            for leaf in _tensors(output_of(model, example, example.tensors)):
                assert leaf.shape[0] == batch


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_vary_with_the_input_for_most_networks_even_masked(family: Family) -> None:
    surveyed = sample(family, 60)
    lively = [case for case in surveyed if _varies(case, case.model())]
    lively_masked = [case for case in surveyed if _varies(case, masked_copy(case.model(), case.masks))]
    assert len(lively) > 0.85 * len(surveyed)
    assert len(lively_masked) > 0.6 * len(surveyed)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lost_masked_bias_is_noticed_by_the_comparison(family: Family) -> None:
    """The fault that incumbents share: a channel goes, and the constant that it carried with it."""
    noticed = 0
    surveyed = [case for case in sample(family, 60) if _varies(case, case.model())]
    for case in surveyed:
        model = case.model().eval()
        faulty = _with_one_bias_lost(model)
        try:
            assert_same_output(faulty, model, case.inputs(3))
        except AssertionError:
            noticed += 1
    assert noticed > 0.5 * len(surveyed)


@pytest.mark.parametrize("family", FAMILIES)
def test_building_is_repeatable_and_leaves_the_process_alone(family: Family) -> None:
    for case in sample(family, 20):
        before = process_state()
        first, second = build(case.network, case.seed), build(case.network, case.seed)
        assert process_state() == before
        assert _contents(first) == _contents(second)
        state = model_state(first)
        run(first, case.inputs(2))
        assert model_state(first) == state


def _features(spec: Spec) -> set[str]:
    """The names under which a call counts as covered: its class, its options, their string values."""
    values = {f"{name}={value}" for name, value in spec.options if isinstance(value, str)}
    return {spec.make.__name__, *(name for name, _ in spec.options), *values}


def _is_module(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, nn.Module)


def _tensors(output: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def _varies(case: Case, model: nn.Module) -> bool:
    """Whether any output changes by more than a thousandth of its size from one input to the next."""
    outputs = _tensors(run(model.eval(), case.inputs(6)))
    return any(bool((out.std(0) / (1.0 + out.abs().amax(0))).max() > 1e-3) for out in outputs)


def _with_one_bias_lost(model: nn.Module) -> nn.Module:
    """A copy in which the first bias, or else the first parameter, has lost its last value."""
    faulty = masked_copy(model, MaskSpec(()))
    named = dict(faulty.named_parameters())
    hit = next((value for name, value in named.items() if "bias" in name), next(iter(named.values())))
    with torch.no_grad():
        hit.view(-1)[-1] = 0.0
    return faulty


def _contents(model: nn.Module) -> dict[str, bytes]:
    return {name: tensor_bytes(tensor) for name, tensor in model.state_dict().items()}
