"""Example calls of operators that move elements, or pick and place them at positions that are data."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.support.operands import BOUNDS, DATA, IMAGE, Calls, at, w, x
from tests.support.samplers import regions, within
from tests.support.soundness import Shape, Tensors, below


def _different(shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.randperm(shape[0], generator=generator)


def _starts(shape: Shape, generator: torch.Generator) -> Tensor:
    return torch.tensor([0, 3])


_PLACED: dict[str, Calls] = {
    "gather": (
        {"self": DATA, "dim": 1, "index": at(3, 2, 2, 4)},
        {"self": DATA, "dim": 1, "index": at(3, 1, 5, 3)},
    ),
    "take_along_dim": (
        {"self": DATA, "indices": at(4, 2, 3, 2), "dim": 2},
        {"self": DATA, "indices": at(24, 5)},
    ),
    "scatter.value": ({"self": DATA, "dim": 2, "index": at(4, 2, 3, 2)},),
    "scatter.src": (
        {"self": DATA, "dim": 2, "index": Tensors((2, 1, 1), below(4)), "src": DATA},
        {"self": DATA, "dim": 1, "index": at(3, 1, 2, 4), "src": DATA},
    ),
    "scatter.reduce": ({"self": DATA, "dim": 2, "index": at(4, 2, 3, 2), "src": DATA, "reduce": "multiply"},),
    "scatter.value_reduce": ({"self": DATA, "dim": 2, "index": at(4, 2, 3, 2), "reduce": "add"},),
    "scatter_add": ({"self": DATA, "dim": 2, "index": at(4, 2, 3, 4), "src": DATA},),
    "scatter_reduce": tuple(
        {"self": DATA, "dim": 2, "index": at(4, 2, 3, 4), "src": DATA, "reduce": how}
        for how in ("sum", "amax", "prod", "mean")
    ),
    "index_select": (
        {"self": DATA, "dim": 2, "index": at(4, 5)},
        {"self": DATA, "dim": 1, "index": at(3, 2)},
    ),
    "index_add": ({"self": DATA, "dim": 2, "index": at(4, 2), "source": x(2, 3, 2)},),
    "index_copy": ({"self": DATA, "dim": 2, "index": Tensors((4,), _different), "source": DATA},),
    "index_fill.int_Tensor": ({"self": DATA, "dim": 2, "index": at(4, 2), "value": x()},),
    "index_fill.int_Scalar": ({"self": DATA, "dim": 2, "index": at(4, 2)},),
    "index_reduce": tuple(
        {"self": DATA, "dim": 2, "index": at(4, 3), "source": x(2, 3, 3), "reduce": how}
        for how in ("prod", "amax")
    ),
    "index.Tensor": (
        {"self": DATA, "indices": [at(2, 5)]},
        {"self": DATA, "indices": [None, at(3, 5)]},
        {"self": DATA, "indices": [at(2, 5), None, at(4, 5)]},
        {"self": DATA, "indices": [None, at(3, 2, 1), at(4, 5)]},
    ),
    **{
        name: (
            {"self": DATA, "indices": [at(2, 5)], "values": x(5, 3, 4)},
            {"self": DATA, "indices": [at(2, 5), at(3, 5)], "values": x(5, 4)},
            {"self": DATA, "indices": [at(2, 5)], "values": x(), "accumulate": True},
        )
        for name in ("index_put.hacked_twin", "_unsafe_index_put.hacked_twin")
    },
    **{
        name: (
            {"self": DATA, "indices": [at(2, 5)], "values": x(5, 3, 4)},
            {"self": DATA, "indices": [None, None, at(4, 5)], "values": x(2, 3, 5)},
            {"self": DATA, "indices": [at(2, 5), None, at(4, 5)], "values": x(5, 3)},
        )
        for name in ("index_put.default", "_unsafe_index_put.default")
    },
    "one_hot": ({"self": at(4, 2, 3), "num_classes": 4},),
    "embedding": ({"weight": w(6, 4), "indices": at(6, 2, 3)},),
    "max_unpool2d": ({"self": x(2, 3, 2, 2), "indices": at(16, 2, 3, 2, 2), "output_size": [4, 4]},),
    "max_unpool3d": (
        {
            "self": x(2, 3, 2, 2, 2),
            "indices": at(64, 2, 3, 2, 2, 2),
            "output_size": [4, 4, 4],
            "stride": [2] * 3,
            "padding": [0] * 3,
        },
    ),
    **{
        name: ({"input": x(2, 3, 4, 4), "grid": Tensors((2, 3, 2, 2), within), "align_corners": False},)
        for name in ("grid_sampler", "grid_sampler_2d")
    },
    "grid_sampler_3d": (
        {"input": x(2, 3, 3, 4, 4), "grid": Tensors((2, 2, 3, 2, 3), within), "align_corners": False},
    ),
    **{
        f"torchvision::{name}": (
            {"input": IMAGE, "rois": Tensors((3, 5), regions), "pooled_height": 2, "pooled_width": 2},
        )
        for name in ("roi_align", "roi_pool")
    },
    **{
        name: tuple(
            {"weight": w(6, 4), "indices": at(6, 5), "offsets": Tensors((2,), _starts), "mode": mode, **more}
            for mode in (0, 1)
        )
        for name, more in (
            ("embedding_bag.default", {}),
            ("embedding_bag.padding_idx", {"padding_idx": 1, "per_sample_weights": None}),
            ("_embedding_bag", {}),
        )
    },
}
_MOVED: dict[str, Calls] = {
    **{
        name: ({"self": DATA, "size": [6, 4]}, {"self": x(2, 6, 4), "size": [-1, 2, 3, 4]})
        for name in ("view.default", "_unsafe_view")
    },
    "reshape": ({"self": DATA, "shape": [6, 4]}, {"self": x(2, 6, 4), "shape": [2, 2, 3, 4]}),
    "unflatten": (
        {"self": x(2, 6, 4), "dim": 1, "sizes": [2, 3]},
        {"self": x(2, 6, 4), "dim": -2, "sizes": [3, -1]},
    ),
    "_reshape_alias": ({"self": DATA, "size": [6, 4], "stride": [4, 1]},),
    "permute": ({"self": DATA, "dims": [2, 0, 1]}, {"self": DATA, "dims": [0, -1, 1]}),
    **{
        name: ({"self": BOUNDS, "size": [2, 3, 4]}, {"self": DATA, "size": [2, -1, 4]})
        for name in ("expand", "broadcast_to")
    },
    "expand_as": ({"self": BOUNDS, "other": DATA},),
    "repeat": ({"self": DATA, "repeats": [2, 1, 2]}, {"self": x(3), "repeats": [2, 2]}),
    "tile": ({"self": DATA, "dims": [2, 1, 2]}, {"self": DATA, "dims": [2]}),
    "repeat_interleave.self_int": ({"self": DATA, "repeats": 2, "dim": 1}, {"self": DATA, "repeats": 2}),
    **{name: ({"tensors": [x(2, 3, 4), x(2, 2, 4)], "dim": 1},) for name in ("cat", "concat", "concatenate")},
    **{
        name: ({"self": x(2, 6, 4), "split_sizes": [1, 3, 2], "dim": 1},)
        for name in ("split_with_sizes", "unsafe_split_with_sizes")
    },
    "split.sizes": ({"self": x(2, 6, 4), "split_size": [1, 3, 2], "dim": 1},),
    **{
        name: (
            {"self": x(2, 6, 4), "split_size": 2, "dim": 1},
            {"self": x(2, 6, 4), "split_size": 4, "dim": 1},
        )
        for name in ("split.Tensor", "unsafe_split")
    },
    **{
        name: ({"self": x(2, 6, 4), "chunks": 2, "dim": 1}, {"self": x(2, 5), "chunks": 3, "dim": 1})
        for name in ("chunk", "unsafe_chunk")
    },
    "tensor_split.sections": (
        {"self": x(2, 6, 4), "sections": 2, "dim": 1},
        {"self": x(2, 5), "sections": 3, "dim": 1},
    ),
    "tensor_split.indices": ({"self": x(2, 6, 4), "indices": [2, 5], "dim": 1},),
    **{f"{name}.int": ({"self": x(4, 4, 4), "sections": 2},) for name in ("hsplit", "vsplit", "dsplit")},
    **{
        f"{name}.array": ({"self": x(4, 4, 4), "indices": [1, 3]},) for name in ("hsplit", "vsplit", "dsplit")
    },
    "select.int": ({"self": x(2, 4, 3), "dim": 1, "index": 2}, {"self": DATA, "dim": 2, "index": -1}),
    "slice": (
        {"self": x(2, 6, 4), "dim": 1, "start": 1, "end": 5},
        {"self": x(2, 6, 4), "dim": 1, "start": 1, "step": 2},
        {"self": x(2, 6, 4), "dim": 2, "start": -3, "end": -1},
    ),
    "narrow.default": ({"self": x(2, 6, 4), "dim": 1, "start": 1, "length": 3},),
    "narrow.Tensor": ({"self": x(2, 6, 4), "dim": 1, "start": at(3), "length": 3},),
    "slice_scatter": (
        {"self": x(2, 6, 4), "src": x(2, 3, 4), "dim": 1, "start": 1, "end": 4},
        {"self": x(2, 6, 4), "src": x(2, 3, 4), "dim": 1, "step": 2},
    ),
    "select_scatter": ({"self": DATA, "src": x(2, 4), "dim": 1, "index": 1},),
    "roll": ({"self": DATA, "shifts": [1, -1], "dims": [1, 2]}, {"self": DATA, "shifts": [5]}),
    "flip": ({"self": DATA, "dims": [0, 2]},),
    "pad": (
        {"self": DATA, "pad": [1, 2], "mode": "constant"},
        {"self": DATA, "pad": [1, 0, 2, -1], "value": 0.5},
        {"self": DATA, "pad": [1, 2], "mode": "reflect"},
        {"self": DATA, "pad": [1, 2], "mode": "circular"},
    ),
    "constant_pad_nd": ({"self": DATA, "pad": [1, 2, 0, 1]}, {"self": DATA, "pad": [-1, 1], "value": 0.5}),
    "unfold": ({"self": x(2, 6, 4), "dimension": 1, "size": 3, "step": 2},),
    **{
        name: ({"self": x(2, 6, 2, 2), "groups": 3},)
        for name in ("channel_shuffle", "native_channel_shuffle")
    },
    **{f"{n}.int": ({"self": DATA, "source": 1, "destination": -1},) for n in ("movedim", "moveaxis")},
    **{
        f"{n}.intlist": ({"self": DATA, "source": [0, 1], "destination": [2, 0]},)
        for n in ("movedim", "moveaxis")
    },
    "rot90": ({"self": x(2, 4, 4), "k": 1, "dims": [1, 2]}, {"self": DATA, "k": 2, "dims": [0, 2]}),
    "diagonal": ({"self": x(2, 4, 4), "offset": 1, "dim1": 1, "dim2": 2}, {"self": x(3, 3)}),
    "broadcast_tensors": ({"tensors": [DATA, BOUNDS]},),
    "meshgrid": ({"tensors": [x(2), x(3)]},),
    "meshgrid.indexing": ({"tensors": [x(2), x(3)], "indexing": "xy"},),
    "pixel_shuffle": ({"self": x(2, 8, 2, 3), "upscale_factor": 2},),
    "pixel_unshuffle": ({"self": IMAGE, "downscale_factor": 2},),
    "im2col": (
        {"self": IMAGE, "kernel_size": [2, 2], "dilation": [1, 1], "padding": [0, 0], "stride": [2, 1]},
        {"self": IMAGE, "kernel_size": [3, 3], "dilation": [1, 1], "padding": [1, 1], "stride": [1, 1]},
    ),
    "col2im": (
        {
            "self": x(2, 12, 9),
            "output_size": [4, 4],
            "kernel_size": [2, 2],
            "dilation": [1, 1],
            "padding": [0, 0],
            "stride": [1, 1],
        },
    ),
}

MOVES: dict[str, Calls] = {**_PLACED, **_MOVED}
