"""Example calls of operators that models seldom hold between layers: losses, draws, transforms."""

from __future__ import annotations

import torch

from tests.support.operands import DATA, Calls, at, x
from tests.support.samplers import definite, mixed_pairs, shares, signs
from tests.support.soundness import Tensors, positive


def _constant(values: list[int]) -> Tensors:
    return Tensors((len(values),), lambda shape, generator: torch.tensor(values))


_SHARES = Tensors((2, 3, 4), shares)
_DRAWN: dict[str, Calls] = {
    "randint.low": ({"low": 1, "high": 5, "size": [2, 3]},),
    "randint.low_generator": ({"low": 1, "high": 5, "size": [2, 3]},),
    **{
        f"randint_like.{n}": ({"self": DATA, "low": 1, "high": 5},)
        for n in ("low_dtype", "low_generator_dtype")
    },
    **{
        f"randint_like.{n}": (
            {"self": DATA, "high": Tensors((), lambda shape, generator: torch.full(shape, 7))},
        )
        for n in ("Tensor", "Tensor_generator")
    },
    "normal.Tensor_Tensor": ({"mean": x(2, 3), "std": Tensors((2, 3), positive)},),
    "arange.start": ({"start": 1, "end": 5},),
    "arange.start_step": ({"start": 1, "end": 7, "step": 2},),
    "bernoulli.default": ({"self": _SHARES},),
    **{f"{n}.Tensor": ({"self": DATA, "p": _SHARES},) for n in ("bernoulli", "bernoulli_")},
    "multinomial": ({"self": Tensors((3, 4), positive), "num_samples": 2},),
    "normal.float_Tensor": ({"mean": 0.5, "std": Tensors((2, 3), positive)},),
    "poisson": ({"self": Tensors((2, 3, 4), positive)},),
    "fractional_max_pool2d": (
        {
            "self": x(2, 3, 6, 6),
            "kernel_size": [2, 2],
            "output_size": [3, 3],
            "random_samples": Tensors((2, 3, 2), shares),
        },
    ),
    "fractional_max_pool3d": (
        {
            "self": x(2, 3, 4, 4, 4),
            "kernel_size": [2, 2, 2],
            "output_size": [2, 2, 2],
            "random_samples": Tensors((2, 3, 3), shares),
        },
    ),
}
_OF_DEFINITE = (
    *("linalg_cholesky", "cholesky", "cholesky_inverse"),
    *("linalg_inv", "linalg_inv_ex", "inverse"),
)
_TRANSFORMED: dict[str, Calls] = {
    **{
        name: ({"self": Tensors((2, 3, 3), definite), "A": Tensors((2, 3, 3), definite)},)
        for name in _OF_DEFINITE
    },
    **{
        name: ({"A": Tensors((3, 3), definite), "B": x(3, 2)},)
        for name in ("linalg_solve", "linalg_solve_ex")
    },
    "stft.default": ({"self": x(2, 12), "n_fft": 4, "return_complex": True},),
    "stft.center": ({"self": x(2, 12), "n_fft": 4, "return_complex": True},),
    "istft": ({"self": Tensors((2, 3, 5), mixed_pairs), "n_fft": 4},),
    "affine_grid_generator": ({"theta": x(2, 2, 3), "size": [2, 3, 4, 4], "align_corners": False},),
    "segment_reduce": ({"data": x(4, 3), "reduce": "sum", "lengths": _constant([1, 3])},),
}
_COMPARED: dict[str, Calls] = {
    **{name: ({"self": x(4, 3), "target": at(3, 4)},) for name in ("nll_loss", "nll_loss_nd")},
    "nll_loss2d": ({"self": x(2, 3, 4, 4), "target": at(3, 2, 4, 4)},),
    "binary_cross_entropy": ({"self": _SHARES, "target": _SHARES},),
    "cosine_embedding_loss": ({"input1": x(4, 3), "input2": x(4, 3), "target": Tensors((4,), signs)},),
    "multi_margin_loss": ({"self": x(4, 3), "target": at(3, 4)},),
    "fake_quantize_per_tensor_affine.tensor_qparams": (
        {
            "self": DATA,
            "scale": Tensors((1,), positive),
            "zero_point": _constant([0]),
            "quant_min": 0,
            "quant_max": 255,
        },
    ),
    "multilabel_margin_loss": ({"self": x(4, 3), "target": at(3, 4, 3)},),
}
LOSSES: dict[str, Calls] = {**_DRAWN, **_TRANSFORMED, **_COMPARED}
