"""Hyper-parameters of torch.nn classes: which attributes describe the tensors they hold.

A smaller layer is the same class with smaller tensors and these attributes set to match.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from speedup.ir.graph import Op
from speedup.rules.contraction import contraction_needs, describe
from speedup.rules.normalization import group_norm_needs
from speedup.rules.recurrence import first_weights, gate_count
from speedup.rules.rule import Sizes

Attributes = Mapping[str, int | tuple[int, ...]]


def _linear(op: Op, sizes: Sizes) -> Attributes:
    rows, columns = sizes(op.operands[1])
    return {"in_features": columns, "out_features": rows}


def _conv(op: Op, sizes: Sizes) -> Attributes:
    shape = describe(op)
    return {
        "in_channels": sizes(shape.data)[shape.axis],
        "out_channels": sizes(op.result)[shape.result_axis],
        **contraction_needs(op, sizes),
    }


def _batch_norm(op: Op, sizes: Sizes) -> Attributes:
    return {"num_features": sizes(op.operands[0])[1]}


def _group_norm(op: Op, sizes: Sizes) -> Attributes:
    return {"num_channels": sizes(op.operands[0])[1], **group_norm_needs(op, sizes)}


def _layer_norm(op: Op, sizes: Sizes) -> Attributes:
    rank = len(op["normalized_shape"])
    return {"normalized_shape": tuple(sizes(op.operands[0])[-rank:])}


def _embedding(op: Op, sizes: Sizes) -> Attributes:
    rows, columns = sizes(op.operands[0])
    return {"num_embeddings": rows, "embedding_dim": columns}


def _bilinear(op: Op, sizes: Sizes) -> Attributes:
    rows, first, second = sizes(op.operands[2])
    return {"in1_features": first, "in2_features": second, "out_features": rows}


def _prelu(op: Op, sizes: Sizes) -> Attributes:
    return {"num_parameters": sizes(op.operands[1])[0]}


def _recurrent(op: Op, sizes: Sizes) -> Attributes:
    weight_ih, weight_hh = first_weights(op)
    return {"input_size": sizes(weight_ih)[1], "hidden_size": sizes(weight_hh)[0] // gate_count(op)}


# (module class, operator name prefix, attributes): an op of that name run by such a module.
_TABLE: tuple[tuple[type[nn.Module], str, Callable[[Op, Sizes], Attributes]], ...] = (
    (nn.Linear, "linear", _linear),
    (_ConvNd, "conv", _conv),
    (_NormBase, "batch_norm", _batch_norm),
    (_NormBase, "instance_norm", _batch_norm),
    (nn.GroupNorm, "group_norm", _group_norm),
    (nn.LayerNorm, "layer_norm", _layer_norm),
    (nn.RMSNorm, "rms_norm", _layer_norm),
    (nn.Embedding, "embedding", _embedding),
    (nn.EmbeddingBag, "embedding_bag", _embedding),
    (nn.Bilinear, "bilinear", _bilinear),
    (nn.PReLU, "prelu", _prelu),
    *((kind, name, _recurrent) for kind in (nn.RNNBase, nn.RNNCellBase) for name in ("lstm", "gru", "rnn_")),
)

# Operator arguments that a payment sets through an attribute, which may have held None.
_SETTABLE: tuple[tuple[type[nn.Module], frozenset[str]], ...] = ((nn.RMSNorm, frozenset({"eps"})),)

_FORWARDS_BIAS = frozenset(
    c.forward
    for c in (
        nn.Linear,
        nn.Conv1d,
        nn.Conv2d,
        nn.Conv3d,
        nn.ConvTranspose1d,
        nn.ConvTranspose2d,
        nn.ConvTranspose3d,
    )
)


def hyperparameters(op: Op, sizes: Sizes) -> Mapping[str, Any]:
    """Attributes of the module that runs `op`, as they have to be at `sizes`."""
    for kind, prefix, attributes in _TABLE:
        if issubclass(op.owner.type, kind) and op.name.startswith(prefix):
            return attributes(op, sizes)
    return {}


def settable(op: Op) -> frozenset[str]:
    """Arguments of `op` that its module reads from an attribute of its own."""
    if not hyperparameters(op, lambda value: value.shape):
        return frozenset()
    return frozenset().union(*(names for kind, names in _SETTABLE if issubclass(op.owner.type, kind)))


def may_add_bias(op: Op) -> bool:
    """Whether the module that runs `op` would use a bias if it had one."""
    return getattr(op.owner.type, "forward", None) in _FORWARDS_BIAS
