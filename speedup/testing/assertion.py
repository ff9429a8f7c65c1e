"""`assert_equivalent`: everything that is promised of a small model, in one line of a test."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from attrs import frozen
from torch import Tensor, nn

from speedup.analyses.alignment import Align
from speedup.building.binding import plain_model
from speedup.building.draws import draws, first_taken
from speedup.building.materializing import materialize
from speedup.ir.inputs import Example, batch_size, example_from
from speedup.masks import MaskSource, apply_masks
from speedup.plan import Plan
from speedup.planning.baking import Reparametrized
from speedup.planning.choosing import Lowerings
from speedup.planning.planner import plan_speedup
from speedup.rendering.table import report_table
from speedup.rules import STANDARD, Rules
from speedup.testing.blame import first_differing
from speedup.testing.masks import MaskSpec, mask_argument
from speedup.testing.oracle import Yardstick, masked_copy, output_of
from speedup.testing.snapshots import changes, changes_of_process, model_state, process_state
from speedup.testing.source import expression, names_in
from speedup.testing.structure import foreign_traits

_SEED = 30_000
# Of the plan in a message, in characters: the same in every terminal, and seldom in need of a line break.
_WIDTH = 160


def assert_equivalent(
    model: nn.Module,
    x: Any,
    masks: MaskSpec | MaskSource | None = None,
    *,
    kwargs: Mapping[str, Any] | None = None,
    others: Sequence[Any] = (),
    unseen: Sequence[Any] = (),
    batch_sizes: Sequence[int] = (1, 3),
    tolerance: float | None = None,
    keep: Sequence[str] = (),
    rules: Rules = STANDARD,
    align: Align | None = None,
    lowerings: Lowerings = "auto",
    reparametrized: Reparametrized = "bake",
) -> Plan:
    """Assert that the small model of `model` and `masks` is the masked one, and return its plan.

    The model is planned and materialized without the library's own verification, and both are compared in
    eval mode: on `x` and each of `others`, on inputs like these at other batch sizes (those that the masked
    model takes, as varied as it takes them), at the sizes that planning looked for, and on `unseen`. Planning
    must leave the model and the global state as they are; the small model must have the same modules, flags
    and dtypes, no larger tensors, and work with a reloaded state.

    Args:
        model: any module, in any mode. It is not changed.
        x: example input, as in `plan_speedup`; so are `kwargs`, `keep`, `rules`, `align`,
            `lowerings` and `reparametrized`.
        masks: masks as in `plan_speedup`, or what `masks_for` draws.
        others: further calls that the plan has to hold for, of any structure; passed to `plan_speedup`.
        unseen: inputs of the structure of `x` to compare on of which planning is not told, such as other
            resolutions.
        batch_sizes: sizes of the first dimension to compare at, besides those of `x` and `others`.
        tolerance: largest error of an output relative to how it varies between inputs. None: by its dtype.

    Raises:
        AssertionError: a promise is broken; the message says which, where and for which masks.
        SpeedupError: the model or the arguments cannot be planned.
    """
    if isinstance(masks, MaskSpec) and masks.style == "baked":
        model = masked_copy(model, masks)
    given = mask_argument(masks, model) if isinstance(masks, MaskSpec) else masks
    before, process_before = model_state(model), process_state()
    plan = plan_speedup(
        model,
        x,
        given,
        others=others,
        kwargs=kwargs,
        keep=keep,
        rules=rules,
        align=align,
        lowerings=lowerings,
        reparametrized=reparametrized,
    )
    small = materialize(plan, verify="none")
    trial = _Trial(model, small, plan, masks, _named(others=others, unseen=unseen))
    trial.require_none("planning changed", changes(before, model_state(model)))
    trial.require_none("planning changed the process", changes_of_process(process_before, process_state()))
    trial.require_none("it is another build:", foreign_traits(small, plain_model(plan).model))
    masked = masked_copy(model, masks) if isinstance(masks, MaskSpec) else apply_masks(model, given)
    measured = partial(Yardstick, masked.eval(), tolerance=tolerance)
    for call in (plan.subject.example, *plan.subject.others):
        yardstick = measured(call)
        trial.require_same_outputs(yardstick, _like(yardstick, batch_sizes))
    for call in (*filter(partial(_runs, masked), plan.subject.found), *_calls(unseen, kwargs)):
        trial.require_same_outputs(measured(call), [call.tensors])
    trial.require_same_reloaded(measured(plan.subject.example))
    return plan


def _named(**given: Sequence[Any]) -> tuple[str, ...]:
    """The arguments that are not empty."""
    return tuple(name for name, values in given.items() if len(values))


def _runs(masked: nn.Module, call: Example) -> bool:
    """Whether the masked model takes a call that planning made up."""
    try:
        output_of(masked, call, call.tensors)
    except Exception:
        return False
    return True


def _like(yardstick: Yardstick, batch_sizes: Sequence[int]) -> list[Sequence[Tensor]]:
    """The example's own tensors, then the most varied at the batch sizes that the masked model takes."""
    example = yardstick.example
    taken: list[Sequence[Tensor]] = [example.tensors]
    for size in batch_sizes if batch_size(example) is not None else ():
        drawn = draws(example, size, torch.Generator().manual_seed(_SEED + size))
        with suppress(Exception):
            draw, _ = first_taken(drawn, yardstick.expected)
            taken.append(draw.tensors)
    return taken


def _calls(unseen: Sequence[Any], kwargs: Mapping[str, Any] | None) -> Iterator[Example]:
    for inputs in unseen:
        yield example_from(inputs, kwargs)


@frozen(eq=False)
class _Trial:
    """A small model under test, and all that a message about it should say.

    `named` are the arguments besides model, input and masks that it takes to reproduce a failure.
    """

    model: nn.Module
    small: nn.Module
    plan: Plan
    masks: object
    named: tuple[str, ...] = ()

    def require_none(self, broken: str, faults: Iterable[str]) -> None:
        found = ", ".join(faults)
        if found:
            raise AssertionError(self._message(f"{broken} {found}"))

    def require_same_outputs(self, yardstick: Yardstick, inputs: Sequence[Sequence[Tensor]]) -> None:
        """Compare on each of `inputs`."""
        for tensors in inputs:
            self._require_same(yardstick, self.small.eval(), tensors)

    def require_same_reloaded(self, yardstick: Yardstick) -> None:
        """Compare a second small model that was given the state of the first."""
        candidate = materialize(self.plan, verify="none")
        candidate.load_state_dict(self.small.state_dict())
        self._require_same(yardstick, candidate.eval(), yardstick.example.tensors)

    def _require_same(self, yardstick: Yardstick, model: nn.Module, tensors: Sequence[Tensor]) -> None:
        deviation = yardstick.deviation(model, tuple(tensors))
        if deviation is not None:
            raise AssertionError(self._deviates(deviation, yardstick, model, tensors))

    def _deviates(
        self, deviation: str, yardstick: Yardstick, model: nn.Module, tensors: Sequence[Tensor]
    ) -> str:
        path = first_differing(yardstick, model, tensors)
        found = f"{deviation}\n  for inputs of shape {_shapes(tensors)}"
        if path is None:
            return self._message(found)
        return self._message(
            f"{found}\n  the first module of unchanged shape whose output differs is {path!r} "
            f"({type(yardstick.masked.get_submodule(path)).__name__})\n"
            f"  until that is mended, keep=[{path!r}] leaves that module as it is"
        )

    def _message(self, broken: str) -> str:
        name = type(self.model).__name__
        return "\n".join(
            (
                f"the small {name} is not the masked {name}: {broken}",
                "",
                *self._reproduction(),
                "",
                "The plan was:",
                report_table(self.plan.report, _WIDTH),
            )
        )

    def _reproduction(self) -> Iterator[str]:
        if not isinstance(self.masks, MaskSpec):
            yield f"Masked were {', '.join(self.plan.subject.masks) or 'no parameters'}."
            return
        names = ", ".join(sorted({*names_in(self.masks), "assert_equivalent"}))
        yield f"To reproduce it with this model and {', '.join(('input', *self.named))}:"
        yield f"    from speedup.testing import {names}"
        yield from (f"    {line}" for line in f"masks = {expression(self.masks)}".splitlines())
        arguments = ("model", "x", "masks", *(f"{name}={name}" for name in self.named))
        yield f"    assert_equivalent({', '.join(arguments)})"


def _shapes(tensors: Sequence[Tensor]) -> str:
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)
