"""Example calls of what layers run: convolutions, products, pools, norms, recurrences."""

from __future__ import annotations

from tests.support.operands import DATA, IMAGE, VOLUME, Call, Calls, w, x
from tests.support.soundness import Tensors, positive


def _pools() -> dict[str, Calls]:
    calls: dict[str, Calls] = {}
    for rank, data in ((1, x(2, 4, 6)), (2, IMAGE), (3, VOLUME)):
        for name in (f"max_pool{rank}d", f"avg_pool{rank}d"):
            calls[name] = (
                {"self": data, "kernel_size": [2] * rank},
                {"self": data, "kernel_size": [3] * rank, "stride": [1] * rank, "padding": [1] * rank},
            )
        for name in (f"adaptive_avg_pool{rank}d", f"adaptive_max_pool{rank}d"):
            calls[name] = (
                {"self": data, "output_size": [2] * rank},
                {"self": data, "output_size": [3] * rank},
            )
        for mode in ("nearest", "linear", "bilinear", "bicubic", "trilinear"):
            for name in (
                f"upsample_{mode}{rank}d",
                f"_upsample_{mode}_exact{rank}d",
                f"_upsample_{mode}{rank}d_aa",
            ):
                calls[f"{name}.default"] = ({"self": data, "output_size": [5] * rank},)
                calls[f"{name}.vec"] = (
                    {"input": data, "output_size": [3] * rank},
                    {"input": data, "scale_factors": [2.0] * rank},
                )
        calls[f"reflection_pad{rank}d"] = ({"self": data, "padding": [1, 2] * rank},)
        calls[f"replication_pad{rank}d"] = ({"self": data, "padding": [2, 1] * rank},)
    calls["max_pool2d_with_indices"] = calls["max_pool2d"]
    calls["max_pool3d_with_indices"] = calls["max_pool3d"]
    return calls


def _convolutions() -> dict[str, Calls]:
    calls: dict[str, Calls] = {}
    for rank in (1, 2, 3):
        space, kernel = (5, 4, 3)[:rank], (3,) * rank
        data, bias, pad = x(2, 6, *space), w(4), [1] * rank
        calls[f"conv{rank}d.default"] = (
            {"input": data, "weight": w(4, 6, *kernel), "bias": bias},
            {"input": data, "weight": w(4, 6, *kernel), "padding": pad},
            {"input": data, "weight": w(4, 3, *kernel), "bias": bias, "padding": pad, "groups": 2},
            {"input": data, "weight": w(6, 1, *kernel), "bias": w(6), "padding": pad, "groups": 6},
        )
        calls[f"conv{rank}d.padding"] = (
            {"input": data, "weight": w(4, 6, *kernel), "bias": bias, "padding": "same"},
        )
        transposed: Calls = (
            {"input": data, "weight": w(6, 4, *kernel), "bias": bias},
            {"input": data, "weight": w(6, 2, *kernel), "bias": bias, "stride": [2] * rank, "groups": 2},
            {"input": data, "weight": w(6, 1, *kernel), "bias": w(6), "padding": pad, "groups": 6},
        )
        calls[f"conv_transpose{rank}d"] = transposed
    common: Call = {"stride": [1], "dilation": [1], "output_padding": [0], "input": x(2, 6, 5)}
    calls["convolution"] = (
        {**common, "weight": w(4, 6, 3), "bias": w(4), "padding": [0], "transposed": False, "groups": 1},
        {**common, "weight": w(6, 4, 3), "bias": w(4), "padding": [1], "transposed": True, "groups": 1},
    )
    return calls


def _recurrent(name: str, gates: int) -> dict[str, Calls]:
    width, hidden = 3, 4
    cell = {
        "w_ih": w(gates * hidden, width),
        "w_hh": w(gates * hidden, hidden),
        "b_ih": w(gates * hidden),
        "b_hh": w(gates * hidden),
    }
    state = x(2, hidden)
    layer = x(1, 2, hidden)
    is_lstm = name == "lstm"
    flags_ = {
        "has_biases": True,
        "num_layers": 1,
        "dropout": 0.0,
        "bidirectional": False,
        "batch_first": True,
    }
    return {
        f"{name}_cell": ({"input": x(2, width), "hx": [state, state] if is_lstm else state, **cell},),
        f"{name}.input": (
            {
                "input": x(2, 3, width),
                "hx": [layer, layer] if is_lstm else layer,
                "params": list(cell.values()),
                **flags_,
            },
        ),
    }


_STATISTICS: Call = {
    "weight": w(4),
    "bias": w(4),
    "running_mean": w(4),
    "running_var": Tensors((4,), positive, state=True),
    "eps": 1e-5,
}
_NORMED: dict[str, Calls] = {
    "batch_norm": (
        {**_STATISTICS, "input": IMAGE, "training": False},
        {**_STATISTICS, "input": x(3, 4), "training": False},
        {"input": IMAGE, "weight": w(4), "bias": w(4), "training": True, "eps": 1e-5},
    ),
    "instance_norm": ({"input": IMAGE, "weight": w(4), "bias": w(4), "use_input_stats": True, "eps": 1e-5},),
    "group_norm": (
        {"input": IMAGE, "num_groups": 2, "weight": w(4), "bias": w(4)},
        {"input": IMAGE, "num_groups": 2},
    ),
    "layer_norm": (
        {"input": x(2, 3, 6), "normalized_shape": [6], "weight": w(6), "bias": w(6)},
        {"input": DATA, "normalized_shape": [3, 4]},
    ),
    "rms_norm": (
        {"input": x(2, 3, 6), "normalized_shape": [6], "weight": w(6), "eps": 1e-5},
        {"input": DATA, "normalized_shape": [4]},
    ),
    "_weight_norm": ({"v": w(4, 3, 2), "g": w(4, 1, 1)}, {"v": w(4, 3), "g": w(1, 3), "dim": 1}),
    "_weight_norm_interface": ({"v": w(4, 3, 2), "g": w(4, 1, 1)},),
    "norm.ScalarOpt_dim_dtype": ({"self": DATA, "p": 2, "dim": [1]},),
    "norm.ScalarOpt_dtype": ({"self": DATA, "p": 2},),
    "linalg_norm.ord_str": ({"self": x(3, 4), "ord": "fro"},),
    "prelu": ({"self": IMAGE, "weight": w(4)}, {"self": DATA, "weight": w(1)}),
    "glu": ({"self": x(2, 6, 4), "dim": 1}, {"self": IMAGE}),
}
_MULTIPLIED: dict[str, Calls] = {
    "linear": ({"input": x(2, 3, 4), "weight": w(6, 4), "bias": w(6)}, {"input": x(2, 4), "weight": w(3, 4)}),
    "matmul": (
        {"self": DATA, "other": x(2, 4, 6)},
        {"self": DATA, "other": w(4, 6)},
        {"self": x(4), "other": x(2, 4, 3)},
        {"self": x(2, 1, 3, 4), "other": x(6, 4, 3)},
    ),
    "mm.default": ({"self": x(3, 4), "mat2": x(4, 6)}, {"self": x(3, 4), "mat2": w(4, 6)}),
    "bmm.default": ({"self": DATA, "mat2": x(2, 4, 6)},),
    "addmm.default": (
        {"self": w(6), "mat1": x(3, 4), "mat2": w(4, 6)},
        {"self": x(3, 1), "mat1": x(3, 4), "mat2": x(4, 6), "beta": 0.5},
    ),
    "scaled_dot_product_attention": (
        {"query": x(2, 2, 3, 4), "key": x(2, 2, 5, 4), "value": x(2, 2, 5, 6)},
        {
            "query": x(2, 2, 3, 4),
            "key": x(2, 2, 3, 4),
            "value": x(2, 2, 3, 4),
            "scale": 0.5,
            "is_causal": True,
        },
        {"query": x(2, 4, 3, 2), "key": x(2, 2, 3, 2), "value": x(2, 2, 3, 2), "enable_gqa": True},
    ),
    "einsum": (
        {"equation": "bchw,bdhw->bcd", "tensors": [x(2, 3, 2, 2), x(2, 4, 2, 2)]},
        {"equation": "...i,ij->...j", "tensors": [DATA, w(4, 3)]},
        {"equation": "ii->i", "tensors": [x(4, 4)]},
        {"equation": "ij,jk,kl->il", "tensors": [x(2, 3), x(3, 4), x(4, 2)]},
    ),
    "bilinear": ({"input1": x(2, 3), "input2": x(2, 4), "weight": w(6, 3, 4), "bias": w(6)},),
    "inner": ({"self": x(2, 4), "other": x(3, 4)},),
    "tensordot": ({"self": DATA, "other": x(4, 6), "dims_self": [2], "dims_other": [0]},),
    "dot": ({"self": x(4), "tensor": x(4)},),
    "mv": ({"self": x(3, 4), "vec": x(4)},),
    "outer": ({"self": x(3), "vec2": x(4)},),
    "ger": ({"self": x(3), "vec2": x(4)},),
    "addmv": ({"self": x(3), "mat": x(3, 4), "vec": x(4)},),
    "addr": ({"self": x(3, 4), "vec1": x(3), "vec2": x(4)},),
    "baddbmm.default": ({"self": x(2, 3, 6), "batch1": x(2, 3, 4), "batch2": x(2, 4, 6)},),
    "addbmm": ({"self": x(3, 6), "batch1": x(2, 3, 4), "batch2": x(2, 4, 6)},),
    "cdist": ({"x1": x(2, 3, 4), "x2": x(2, 5, 4)},),
    "cosine_similarity": ({"x1": DATA, "x2": DATA}, {"x1": DATA, "x2": DATA, "dim": -1}),
    "cross": ({"self": DATA, "other": DATA, "dim": 1}, {"self": x(2, 3), "other": x(2, 3)}),
    "linalg_cross": ({"self": DATA, "other": DATA, "dim": 1},),
}

LAYERS: dict[str, Calls] = {
    **_pools(),
    **_convolutions(),
    **_recurrent("lstm", 4),
    **_recurrent("gru", 3),
    **_recurrent("rnn_tanh", 1),
    **_recurrent("rnn_relu", 1),
    **_NORMED,
    **_MULTIPLIED,
}
