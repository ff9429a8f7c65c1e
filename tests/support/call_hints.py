"""What to pass to operators whose schema does not tell: by operator or overload, the calls to make.

A call names some parameters; the others get what their type asks for.
"""

from __future__ import annotations

import torch

from tests.support.calls_of_layers import LAYERS
from tests.support.calls_of_losses import LOSSES
from tests.support.calls_of_moves import MOVES
from tests.support.operands import DATA, Calls, x
from tests.support.samplers import mixed_flags, mixed_pairs
from tests.support.soundness import Tensors, flags, positive

_REST: dict[str, Calls] = {
    **{name: ({"self": DATA, "min": -0.5, "max": 0.5},) for name in ("clamp.default", "clip.default")},
    **{
        name: ({"self": DATA, "min": x(3, 1), "max": DATA}, {"self": DATA, "max": x(4)})
        for name in ("clamp.Tensor", "clip.Tensor")
    },
    "mul.Scalar": ({"self": DATA, "other": 0.5}, {"self": DATA, "other": 0.0}),
    "full_like": ({"self": DATA, "fill_value": 0.5},),
    "fill.Tensor": ({"self": DATA, "value": x()},),
    "where.self": (
        {"condition": Tensors((2, 3, 4), flags), "self": DATA, "other": x(3, 1)},
        {"condition": Tensors((3, 1), mixed_flags), "self": x(4), "other": DATA},
    ),
    "where.ScalarOther": ({"condition": Tensors((3, 1), mixed_flags), "self": DATA},),
    "where.ScalarSelf": ({"condition": Tensors((3, 1), mixed_flags), "other": DATA},),
    "where.Scalar": ({"condition": Tensors((3, 1), mixed_flags)},),
    "masked_fill.Scalar": ({"self": DATA, "mask": Tensors((3, 1), mixed_flags), "value": 0.5},),
    "masked_fill.Tensor": ({"self": DATA, "mask": Tensors((2, 1, 4), mixed_flags), "value": x()},),
    **{
        name: ({"self": DATA, "size": [2, 5]},) for name in ("new_zeros", "new_ones", "new_full", "new_empty")
    },
    "view_as_complex": ({"self": x(3, 4, 2)},),
    "view_as_real": ({"self": Tensors((2, 3, 4), mixed_pairs)},),
    **{
        f"{name}.Tensor_Tensor": ({"start": x(), "end": x(), "steps": 4},)
        for name in ("linspace", "logspace")
    },
    **{f"{name}.Tensor_Scalar": ({"start": x(), "steps": 4},) for name in ("linspace", "logspace")},
    **{f"{name}.Scalar_Tensor": ({"end": x(), "steps": 4},) for name in ("linspace", "logspace")},
    **{name: ({"self": DATA, "k": 2, "dim": 1},) for name in ("topk", "kthvalue")},
    "_assert_tensor_metadata": ({"a": DATA, "dtype": torch.float64},),
    "_assert_scalar": ({"self": 1, "assert_msg": ""},),
    "_assert_async.default": ({"self": Tensors((), positive)},),
    "_assert_async.msg": ({"self": Tensors((), positive), "assert_msg": ""},),
    "sym_constrain_range_for_size": ({"size": 3},),
}

HINTS: dict[str, Calls] = {**LAYERS, **MOVES, **LOSSES, **_REST}
