"""Operators that are kept as they are on purpose, each with the reason that a plan shows.

All that they touch keeps its size. They count as ruled: `plan.unknown_operators` leaves them out.
"""

from __future__ import annotations

from collections.abc import Iterable

from speedup.engine.constraints import Constraint
from speedup.rules.rule import Rule, pinned, reason_for
from speedup.rules.site import Site


def keeping(reason: str) -> Rule:
    """The rule of an operator whose operands and results keep all dimensions; `reason` says why."""

    def couple(site: Site) -> Iterable[Constraint]:
        found = site.because(reason_for(site.op, reason))
        for value in (*site.op.operands, *site.op.results):
            yield from pinned(value, range(value.ndim), found)

    return Rule(couple=couple)


_REASONS: dict[str, str] = {
    "draws a random number for each element": """
        rand rand_like randn randn_like randint randint_like randperm bernoulli bernoulli_ multinomial
        normal normal_ uniform_ exponential_ random_ poisson fractional_max_pool2d fractional_max_pool3d
    """,
    "returns as many elements as its data say": """
        nonzero nonzero_numpy argwhere where.default masked_select unique_dim unique_consecutive _unique2
    """,
    "starts where its data say": "narrow.Tensor",
    "counts elements": "histc histogram bincount searchsorted bucketize",
    "refers to elements by their number": "take put masked_scatter as_strided repeat_interleave.self_Tensor",
    "computes with all of a matrix": """
        linalg_inv linalg_inv_ex linalg_pinv linalg_solve linalg_lstsq linalg_svd linalg_svdvals linalg_qr
        linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh linalg_cholesky linalg_det linalg_slogdet
        linalg_matrix_power linalg_matrix_exp linalg_multi_dot linalg_solve_triangular inverse det logdet
        slogdet matrix_exp matrix_power cholesky cholesky_inverse cholesky_solve pinverse chain_matmul
        trace kron cov corrcoef block_diag vander cartesian_prod
    """,
    "takes spectra over a window": "stft istft",
    "is a loss, which counts every element": """
        cross_entropy_loss nll_loss nll_loss_nd nll_loss2d mse_loss l1_loss smooth_l1_loss huber_loss kl_div
        binary_cross_entropy binary_cross_entropy_with_logits ctc_loss _ctc_loss cosine_embedding_loss
        hinge_embedding_loss margin_ranking_loss triplet_margin_loss multi_margin_loss multilabel_margin_loss
        soft_margin_loss poisson_nll_loss
    """,
    "multiplies runs of rows, whose bounds are data, with a matrix each": """
        _grouped_mm _scaled_grouped_mm transformers::grouped_mm_fallback
    """,
    "holds quantized numbers": """
        quantize_per_tensor quantize_per_channel dequantize fake_quantize_per_tensor_affine
    """,
    "samples at positions that are data": """
        torchvision::deform_conv2d torchvision::nms torchvision::ps_roi_align torchvision::ps_roi_pool
    """,
    "reduces runs of rows, whose lengths are data": "segment_reduce",
}

KEPT: dict[str, str] = {name: reason for reason, names in _REASONS.items() for name in names.split()}
"""Operator -> why it is kept: by its name in ATen, or with its namespace."""

RULES: dict[str, Rule] = {name: keeping(reason) for name, reason in KEPT.items()}
