"""Masks that agree: whatever stands before an operator loses the same indices."""

from __future__ import annotations

from hypothesis import strategies as st
from torch import nn

from speedup.testing import MaskSpec, Slices
from speedup.testing.grammar.site import pick


@st.composite
def agreeing_masks(draw: st.DrawFn, model: nn.Module) -> MaskSpec:
    """Masks by one pattern of all parameters but the head's, of which shifts or a single one may live on."""
    pattern = draw(st.integers(1, 254))
    names = [name for name, _ in model.named_parameters() if ".head." not in name]
    spared = (
        {name for name in names if name.endswith(("shift", "bias"))} if pick(draw, False, True) else set()
    )
    if bool(names) and pick(draw, False, False, True):
        spared.add(draw(st.sampled_from(names)))
    cuts = []
    for name in names:
        sizes = tuple(model.get_parameter(name).shape)
        dim = next((dim for dim, size in enumerate(sizes) if size > 1), None)
        if dim is not None and name not in spared:
            indices = [index for index in range(sizes[dim]) if pattern >> (index % 8) & 1]
            # One index stays: a layer of zeros is another matter.
            cuts.append(Slices(name, dim, tuple(indices[: sizes[dim] - 1])))
    return MaskSpec(
        tuple(cut for cut in cuts if cut.indices),
        style=pick(draw, "by name", "by module", "baked"),
        dtype=pick(draw, "float32", "bool"),
        compact=pick(draw, False, True),
    )
