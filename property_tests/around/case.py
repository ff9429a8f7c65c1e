"""A network around an operator as a value, the strategy that draws it, and what is asserted of it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Literal, cast

import attrs
import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.around.agreeing import agreeing_masks
from property_tests.around.layers import Kind, Layer, Shape
from property_tests.around.model import Around, leave, listed, numbers, stem
from property_tests.around.operands import turned
from speedup import Plan, materialize, plan_speedup
from speedup.ir.inputs import example_from
from speedup.testing import MaskSpec, assert_equivalent, expression, mask_argument, masks_for
from speedup.testing.grammar.site import pick
from speedup.testing.oracle import masked_copy, output_of
from speedup.testing.source import names_in
from speedup.testing.state import enliven
from tests.support.example_calls import Overload, calls_of
from tests.support.ruled import UNDEFINED
from tests.support.soundness import Case, Sampler

Bypass = Literal["none", "add", "multiply"]

NO_MASKS = MaskSpec(())
NOTHING = Layer("nothing")

# Reads what lies behind its operand in memory when that is smaller than the sizes it states.
UNBOUNDED = frozenset({"aten._reshape_alias.default"})

# Bases of spaces of several dimensions, as of a matrix with equal or no singular values: rounding picks one.
UNSTABLE = frozenset({"aten.linalg_svd.default", "aten._linalg_svd.default", "aten.svd.default"})

_TRIALS = 8


@attrs.frozen
class OperatorCase:
    """The `call`-th example call of `operator` between layers, with the weights of `seed`, and masks.

    `stems` stand before the operands that are inputs, in order; None: the operand is an input as it is.
    `beside` is the layer of the bypass.
    """

    operator: str
    call: int
    stems: tuple[Layer | None, ...]
    leave: Layer
    head: bool
    bypass: Bypass
    seed: int
    masks: MaskSpec = NO_MASKS
    beside: Layer = NOTHING

    def check(self) -> Plan:
        """Assert that the small model is the masked one; a failure carries the source that reproduces it.

        Of an operator whose result is drawn or undefined, only that the small model runs is asserted.
        """
        try:
            if is_arbitrary(self.operator, self.call):
                return self._run()
            sizes = () if self.operator in UNBOUNDED else (1, 3)
            return assert_equivalent(self.model(), self.inputs(), self.masks, batch_sizes=sizes)
        except Exception as error:
            error.add_note(source_of(self))
            raise

    def model(self) -> nn.Module:
        """The network in float64 and eval mode; equal cases give equal models."""
        with torch.random.fork_rng(devices=[]):
            return self._model(self.example_call).double().eval()

    @property
    def example_call(self) -> Case:
        return calls(self.operator)[self.call]

    def inputs(self) -> tuple[Tensor, ...]:
        """An input per operand that is no parameter, and one for the bypass."""
        generator, call = torch.Generator().manual_seed(self.seed), self.example_call
        given = [o for o in call.operands if not o.state]
        made = [
            operand.sampler(operand.shape, generator) if layer is None else _normal(operand.shape, generator)
            for operand, layer in zip(given, self.stems, strict=True)
        ]
        if self.bypass != "none":
            made.append(_normal(_bypass_shape(self.operator, self.call), generator))
        return tuple(made)

    def _model(self, call: Case) -> nn.Module:
        generator = torch.Generator().manual_seed(self.seed)
        given = [o for o in call.operands if not o.state]
        held = [o for o in call.operands if o.state]
        bypass = None
        shapes = result_shapes(self.operator, self.call)
        if self.bypass != "none":
            shapes = shapes or ((2, 3),)
            bypass = self.beside.build(shapes[0])
        guarded = not is_finite(self.operator, self.call)
        model = Around(
            call,
            [
                stem(layer or NOTHING, turned(o.sampler) if layer else None, o)
                for o, layer in zip(given, self.stems, strict=True)
            ],
            [torch.zeros(o.shape) for o in held],
            bypass,
            self.bypass == "multiply",
            guarded,
            [leave(self.leave, self.head, shape) for shape in shapes],
        )
        model.double()
        enliven(model, self.inputs(), generator)
        with torch.no_grad():
            for parameter, operand in zip(model.held, held, strict=True):
                parameter.copy_(operand.sampler(operand.shape, generator))
        return model

    def _run(self) -> Plan:
        model, x = self.model(), self.inputs()
        if self.masks.style == "baked":
            model = masked_copy(model, self.masks)
        plan = plan_speedup(model, x, mask_argument(self.masks, model))
        small, example = materialize(plan, verify="none"), example_from(x)
        outputs = [cast("tuple[Tensor, ...]", output_of(one, example, x)) for one in (model, small)]
        shapes = [[t.shape for t in output] for output in outputs]
        assert shapes[0] == shapes[1], f"the outputs are of shapes {shapes[1]}, not {shapes[0]}"
        return plan


@st.composite
def cases_around(draw: st.DrawFn, operator: str) -> OperatorCase:
    """Networks around one operator, with masks."""
    number = draw(st.integers(0, len(calls(operator)) - 1))
    call = calls(operator)[number]
    # Only where the operands lose the same indices of the same dimension does most that reads them lose any.
    agreeing = pick(draw, True, False)
    dims = (pick(draw, -2, -1, -3),) if agreeing else (1, 0, 2, -1)
    stems = tuple(_draw_stem(draw, call, o.sampler, dims) for o in call.operands if not o.state)
    needs_input = not stems or not result_shapes(operator, number)
    bypasses: tuple[Bypass, ...] = ("add", "multiply") if needs_input else ("none", "none", "add", "multiply")
    bare = OperatorCase(
        operator,
        number,
        stems,
        leave=_draw_layer(draw, ("nothing", "nothing", "scale", "mix", "deep"), dims),
        head=pick(draw, True, True, True, False),
        bypass=pick(draw, *bypasses),
        seed=draw(st.integers(0, 999)),
        beside=_draw_layer(draw, ("mix", "deep", "scale"), dims),
    )
    skeleton = bare.model()
    if not list(skeleton.parameters()):
        bare = attrs.evolve(bare, head=True)
        skeleton = bare.model()
    if not list(skeleton.parameters()):
        return bare
    masks = draw((agreeing_masks if agreeing else masks_for)(skeleton).filter(lambda found: bool(found.cuts)))
    return attrs.evolve(bare, masks=masks)


def _draw_stem(draw: st.DrawFn, call: Case, sampler: Sampler, dims: tuple[int, ...]) -> Layer | None:
    # A scale passes its input on, which stays whole; behind a linear map, indices can be gone.
    kinds: tuple[Kind, ...] = ("mix", "mix", "deep", "deep", "scale")
    if turned(sampler) is None:
        return None
    writes = call.op.target._schema.is_mutable
    return _draw_layer(draw, kinds if writes else (*kinds, "nothing"), dims)


def _draw_layer(draw: st.DrawFn, kinds: tuple[Kind, ...], dims: tuple[int, ...]) -> Layer:
    kind = pick(draw, *kinds)
    return Layer(kind) if kind == "nothing" else Layer(kind, pick(draw, *dims))


def _normal(shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def overload_of(name: str) -> Overload:
    """The overload that is printed as `name`, such as `aten.add.Tensor`."""
    namespace, packet, overload = name.split(".")
    found: Overload = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    return found


@cache
def calls(operator: str) -> tuple[Case, ...]:
    """The example calls of an operator."""
    return tuple(calls_of(overload_of(operator)))


def _runs(operator: str, number: int) -> Iterator[list[Tensor]]:
    """What the call returns for operands of all kinds."""
    call = calls(operator)[number]
    for seed in range(_TRIALS):
        generator = torch.Generator().manual_seed(seed)
        operands = [o.sampler(o.shape, generator) for o in call.operands]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            yield [numbers(r) for r in listed(call.function(*operands))]


@cache
def result_shapes(operator: str, number: int) -> tuple[Shape, ...]:
    """The shapes of the results, complex numbers as pairs."""
    return tuple(tuple(r.shape) for r in next(_runs(operator, number)))


def _bypass_shape(operator: str, number: int) -> Shape:
    return (*result_shapes(operator, number), (2, 3))[0]


@cache
def is_finite(operator: str, number: int) -> bool:
    """Whether the call returns numbers for all operands that are tried."""
    return all(bool(r.isfinite().all()) for results in _runs(operator, number) for r in results)


@cache
def is_arbitrary(operator: str, number: int) -> bool:
    """Whether the result is drawn, is whatever the memory held, or hangs on how numbers are rounded."""
    if operator in UNDEFINED | UNSTABLE:
        return True
    if torch.Tag.nondeterministic_seeded not in overload_of(operator).tags:
        return False
    call, results = calls(operator)[number], []
    for seed in (0, 1):
        generator = torch.Generator().manual_seed(0)
        operands = [o.sampler(o.shape, generator) for o in call.operands]
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(seed)
            results.append([numbers(r) for r in listed(call.function(*operands))])
    return not all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def source_of(case: OperatorCase) -> str:
    """A Python program that builds what `case` builds and asserts what `OperatorCase.check` does."""
    testing = ("MaskSpec", "Scattered", "Slices", "Whole")
    return "\n".join(
        (
            "from property_tests.around.case import OperatorCase",
            "from property_tests.around.layers import Layer",
            f"from speedup.testing import {', '.join(n for n in testing if n in names_in(case))}",
            "",
            f"case = {expression(case)}",
            "case.check()",
            "",
        )
    )
