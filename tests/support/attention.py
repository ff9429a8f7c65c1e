"""Masks that remove whole attention heads or residual channels, for nine families of transformers.

Which parameters a head or a residual channel runs through is a fact of the architecture. It stands here as
data: glob patterns over parameter names, each with the dimension that counts heads or channels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from attrs import frozen
from torch import nn

from speedup.masks.attention import HeadRun
from tests.support.masked_model import Cut, masks_of
from tests.support.masking import Masks


@frozen
class HeadAxis:
    """A dimension of the parameters that match `pattern` which counts heads.

    It holds `parts` packed projections one after the other, each of `heads` heads. Keys and values of
    grouped attention have fewer heads than queries, deeper stages more than the first: head i of the one
    belongs to heads of the other by its share of the whole.
    """

    pattern: str
    dim: int
    heads: int
    parts: int = 1
    masked: bool = True
    reads: bool = False
    """Whether this is the output projection, which reads what the heads made."""


@frozen
class ChannelAxis:
    """A dimension of the parameters that match `pattern` which is the residual stream, `copies` of it."""

    pattern: str
    dim: int
    copies: int = 1


def head_cuts(
    model: nn.Module, kind: str, drop: Sequence[int], readers_masked: bool = True
) -> tuple[Cut, ...]:
    """What goes from `model` with the heads `drop` of every attention layer.

    `drop` counts the heads of `HEADS[kind]`'s first axis. The columns of output projections are masked only
    if `readers_masked`.
    """
    axes = HEADS[kind]
    return tuple(
        Cut(
            name,
            axis.dim,
            tuple(i for run in _runs(axis, name, size) for i in run.indices(drop, axes[0].heads)),
            axis.masked and (readers_masked or not axis.reads),
        )
        for axis in axes
        for name, size in _matches(model, axis)
    )


def head_masks(model: nn.Module, kind: str, drop: Sequence[int]) -> Masks:
    """Masks of the heads `drop`: rows and biases of query, key and value, columns of the output."""
    return masks_of(model, head_cuts(model, kind, drop))


def hidden_cuts(model: nn.Module, kind: str, drop: Sequence[int]) -> tuple[Cut, ...]:
    """What goes from `model` with the residual channels `drop`, at every writer and reader."""
    return tuple(
        Cut(
            name,
            axis.dim,
            tuple(copy * size // axis.copies + at for copy in range(axis.copies) for at in drop),
        )
        for axis in HIDDEN[kind]
        for name, size in _matches(model, axis)
    )


def hidden_masks(model: nn.Module, kind: str, drop: Sequence[int]) -> Masks:
    """Masks of the residual channels `drop`: rows and biases of writers, columns of readers, norms."""
    return masks_of(model, hidden_cuts(model, kind, drop))


def _matches(model: nn.Module, axis: HeadAxis | ChannelAxis) -> Iterator[tuple[str, int]]:
    """Names of matching parameters, with the size of the dimension; biases have their only one."""
    found = [
        (name, parameter.shape[axis.dim])
        for name, parameter in model.named_parameters()
        if fnmatchcase(name, axis.pattern)
    ]
    assert found, f"no parameter of this {type(model).__name__} matches {axis.pattern!r}"
    return iter(found)


def _runs(axis: HeadAxis, name: str, size: int) -> Iterator[HeadRun]:
    width = size // (axis.parts * axis.heads)
    for part in range(axis.parts):
        yield HeadRun(name, axis.dim, part * axis.heads * width, width, axis.heads)


def _separate(*projections: str, heads: int, out: str) -> tuple[HeadAxis, ...]:
    return (*(HeadAxis(name, 0, heads) for name in projections), HeadAxis(out, 1, heads, reads=True))


def _swin_stage(blocks: str, heads: int) -> tuple[HeadAxis, ...]:
    return (
        HeadAxis(f"{blocks}.attn.qkv.*", 0, heads, parts=3),
        HeadAxis(f"{blocks}.attn.proj.weight", 1, heads, reads=True),
        HeadAxis(f"{blocks}.attn.relative_position_bias_table", 1, heads, masked=False),
    )


HEADS: Mapping[str, tuple[HeadAxis, ...]] = {
    "timm vit": (
        HeadAxis("blocks.*.attn.qkv.*", 0, 12, parts=3),
        HeadAxis("blocks.*.attn.proj.weight", 1, 12, reads=True),
    ),
    "timm swin": (*_swin_stage("layers.0.blocks.*", 3), *_swin_stage("layers.1.blocks.*", 6)),
    "torchvision vit": (
        HeadAxis("*.self_attention.in_proj_*", 0, 12, parts=3),
        HeadAxis("*.self_attention.out_proj.weight", 1, 12, reads=True),
    ),
    "torchvision swin": (*_swin_stage("features.1.*", 3), *_swin_stage("features.3.*", 6)),
    "bert": _separate(
        "*.self.query.*", "*.self.key.*", "*.self.value.*", heads=12, out="*.attention.output.dense.weight"
    ),
    "gpt2": (
        HeadAxis("*.attn.c_attn.*", -1, 12, parts=3),
        HeadAxis("*.attn.c_proj.weight", 0, 12, reads=True),
    ),
    "llama": (
        *_separate("*.q_proj.weight", heads=12, out="*.o_proj.weight"),
        HeadAxis("*.[kv]_proj.weight", 0, 6),
    ),
    "t5": (
        *_separate("*Attention.[qkv].weight", heads=12, out="*Attention.o.weight"),
        HeadAxis("*.relative_attention_bias.weight", 1, 12, masked=False),
    ),
    "hf vit": _separate("*.attention.[qkv]_proj.*", heads=12, out="*.attention.o_proj.weight"),
}


def _channels(dim: int, *patterns: str) -> tuple[ChannelAxis, ...]:
    return tuple(ChannelAxis(pattern, dim) for pattern in patterns)


HIDDEN: Mapping[str, tuple[ChannelAxis, ...]] = {
    "timm vit": (
        *_channels(-1, "cls_token", "pos_embed", "*.attn.qkv.weight", "*.mlp.fc1.weight", "head.weight"),
        *_channels(0, "patch_embed.proj.*", "*.attn.proj.*", "*.mlp.fc2.*", "*norm*"),
    ),
    "timm swin": (
        *_channels(0, "patch_embed.*", "layers.0.*.attn.proj.*", "layers.0.*.mlp.fc2.*", "layers.0.*.norm*"),
        *_channels(1, "layers.0.*.attn.qkv.weight", "layers.0.*.mlp.fc1.weight"),
        ChannelAxis("layers.1.downsample.norm.*", 0, copies=4),
        ChannelAxis("layers.1.downsample.reduction.weight", 1, copies=4),
    ),
    "torchvision vit": (
        *_channels(-1, "class_token", "*.pos_embedding", "*.in_proj_weight", "*.mlp.0.weight"),
        *_channels(0, "conv_proj.*", "*.out_proj.*", "*.mlp.3.*", "*.ln*"),
        ChannelAxis("heads.head.weight", 1),
    ),
    "torchvision swin": (
        *_channels(
            0, "features.0.*", "features.1.*.attn.proj.*", "features.1.*.mlp.3.*", "features.1.*.norm*"
        ),
        *_channels(1, "features.1.*.attn.qkv.weight", "features.1.*.mlp.0.weight"),
        ChannelAxis("features.2.norm.*", 0, copies=4),
        ChannelAxis("features.2.reduction.weight", 1, copies=4),
    ),
    "bert": (
        *_channels(1, "*_embeddings.weight", "*.self.*.weight", "*.intermediate.dense.weight"),
        *_channels(0, "*.output.dense.*", "*.LayerNorm.*"),
        ChannelAxis("bert.pooler.dense.weight", 1),
    ),
    "gpt2": (
        *_channels(1, "*.wte.weight", "*.wpe.weight", "*.attn.c_proj.weight", "*.mlp.c_proj.weight"),
        *_channels(0, "*.c_attn.weight", "*.c_fc.weight", "*.c_proj.bias", "*.ln_*"),
    ),
    "llama": (
        *_channels(
            1, "*.embed_tokens.weight", "*.[qkv]_proj.weight", "*.gate_proj.weight", "*.up_proj.weight"
        ),
        *_channels(0, "*.o_proj.weight", "*.down_proj.weight", "*norm.weight"),
        ChannelAxis("lm_head.weight", 1),
    ),
    "t5": (
        *_channels(1, "*shared.weight", "*Attention.[qkv].weight", "*.DenseReluDense.wi.weight"),
        *_channels(0, "*Attention.o.weight", "*.DenseReluDense.wo.weight", "*layer_norm.weight"),
    ),
    "hf vit": (
        *_channels(-1, "*.cls_token", "*.position_embeddings", "*.[qkv]_proj.weight", "*.mlp.fc1.weight"),
        *_channels(0, "*.projection.*", "*.o_proj.*", "*.mlp.fc2.*", "*.layernorm*"),
        ChannelAxis("classifier.weight", 1),
    ),
}
