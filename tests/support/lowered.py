"""What the tests of lowerings have in common: masked networks, plans without and with one, and trials."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from speedup import Plan, apply_masks, materialize, plan_speedup
from speedup.errors import ForeignSourceError
from speedup.ir.edits import RewriteForward
from tests.support.lively import make_lively
from tests.support.masking import Masks, filters
from tests.support.measure import relative_error


def images(size: int, batch: int, seed: int, rank: int = 2) -> Tensor:
    """White noise in float64: (batch, 3, size, ...), `rank` times the size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch, 3, *(size,) * rank, generator=generator).double()


def half_masked(model: nn.Module, whole: Collection[str] = ()) -> tuple[nn.Module, Masks]:
    """In float64 and lively, with half of the filters of each convolution masked that is not `whole`."""
    generator = torch.Generator().manual_seed(1)
    masks = {
        name: filters(
            layer, *torch.randperm(layer.out_channels, generator=generator)[: layer.out_channels // 2]
        )
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d) and name not in whole
    }
    make_lively(model, images(16, 8, 3).float(), seed=5, recipe=lambda _: masks)
    return model.double().eval(), masks


def plans_with(lowering: str, model: nn.Module, masks: Masks, size: int = 32) -> tuple[Plan, Plan]:
    """Without lowerings, and with this one."""
    x = images(size, 2, 0).to(next(model.parameters()).dtype)
    without = plan_speedup(model, x, masks, lowerings="none")
    return without, plan_speedup(model, x, masks, lowerings={lowering})


def require_exact(
    plan: Plan, model: nn.Module, masks: Masks, sizes: Sequence[int], rank: int = 2
) -> nn.Module:
    """The small model, equal to the masked one at all `sizes`, for one image and for three."""
    small, masked = materialize(plan, verify="none"), apply_masks(model, masks).eval()
    for size, batch in itertools.product(sizes, (1, 3)):
        calls = [(images(size, batch, seed, rank),) for seed in (1, 2)]
        assert relative_error(masked, small.eval(), calls) < 1e-9, f"size {size}, batch {batch}"
    return small


def rewritten(plan: Plan) -> list[str]:
    """The modules whose forward is rewritten."""
    return [edit.path for edit in plan.edits if isinstance(edit, RewriteForward)]


def sources(plan: Plan) -> str:
    """The source of all functions that are rewritten."""
    return "".join(f.source for e in plan.edits if isinstance(e, RewriteForward) for f in e.functions)


def require_same_in_channels_last(small: nn.Module) -> Tensor:
    """With its channels last `small` gives the same; what it gives then."""
    x, last = images(16, 2, 0), torch.channels_last
    wanted = small(x)
    found = small.to(memory_format=last)(x.contiguous(memory_format=last))  # type: ignore[call-overload]
    torch.testing.assert_close(found, wanted)
    assert isinstance(found, Tensor)
    return found


def require_traced_by_fx(small: nn.Module, helper: Callable[..., Any]) -> None:
    """torch.fx traces `small` with the calls of `helper` as they are, and what it makes gives the same."""
    x = images(16, 2, 0)
    traced = torch.fx.symbolic_trace(small)
    assert torch.equal(traced(x), small(x))
    assert any(node.target is helper for node in traced.graph.nodes)


def require_any_batch_and_compiled_whole(small: nn.Module) -> None:
    """Exported with a batch that is left open, and compiled, `small` gives the same."""
    batch = torch.export.Dim("batch", min=2, max=64)
    exported = torch.export.export(small, (images(16, 2, 0),), dynamic_shapes=({0: batch},)).module()
    x = images(16, 5, 1)
    torch.testing.assert_close(exported(x), small(x))
    # What other tests compiled counts too, and code is compiled anew so many times only.
    torch.compiler.reset()
    compiled = torch.compile(small, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), small(x))


def require_refused(plan: Plan, model: nn.Module, change: Callable[[str], str]) -> None:
    """A plan whose text was changed so is not accepted."""
    text = plan.to_json()
    changed = change(text)
    assert changed != text
    with pytest.raises(ForeignSourceError):
        materialize(Plan.from_json(changed), model=model)


def expressions(*texts: str) -> tuple[ast.expr, ...]:
    """The syntax of these expressions."""
    return tuple(ast.parse(text, mode="eval").body for text in texts)


def are_alike(a: Any, b: Any, is_argument: bool) -> bool:
    """Whether two pieces of syntax are the same, numbers included."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(
            are_alike(one, other, is_argument) for one, other in zip(a, b, strict=True)
        )
    if not isinstance(a, ast.AST) or not isinstance(b, ast.AST):
        return bool(a == b)
    return ast.dump(a) == ast.dump(b)
