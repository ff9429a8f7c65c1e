"""A sparse weight is not the one that it stands for, or is used where it should not be."""

from __future__ import annotations

from property_tests.faults.fault import Fault
from property_tests.faults.killers import SPARSE, SPARSE_FILES, SPARSE_LAYERS, TUNING

FAULTS = (
    Fault(
        "sparse: a row pointer is off by one",
        "sparse.compressed",
        "counts = occupied.sum(1).cumsum(0)",
        "counts = occupied.sum(1).roll(1).cumsum(0)",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: the last row pointer counts an element that is not there",
        "sparse.compressed",
        "pointers = torch.cat([counts.new_zeros(1), counts])",
        "pointers = torch.cat([counts.new_zeros(1), counts[:-1], counts[-1:] + 1])",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: the columns of a row are not in order",
        "sparse.compressed",
        "columns = occupied.nonzero()[:, 1].to(torch.int32)",
        "columns = occupied.nonzero()[:, 1].flip(0).to(torch.int32)",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: rows are put back in their order once too often",
        "sparse.products",
        "return found if row_places is None else found.index_select(0, row_places)",
        "return found if row_places is None else found.index_select(0, row_places[row_places])",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: columns stay in their order where the weight's are in another",
        "sparse.products",
        "        x = x.index_select(0, column_order)",
        "        x = x.index_select(0, column_order.sort().values)",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: dense() leaves the rows in the order that made blocks",
        "sparse.compressed",
        "ordered[stored.order.row_places]",
        "ordered[stored.order.rows]",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: an order has some columns twice",
        "sparse.ordering",
        "    return Order(first, _grouped(gathered.t().contiguous(), side))",
        "    return Order(first, _grouped(gathered.t().contiguous(), side).clamp(min=1))",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: the kernel multiplies by the weight as it was before it was moved",
        "sparse.weight",
        "if made is None or made.key != key:",
        "if made is None:",
        (SPARSE_LAYERS,),
    ),
    Fault(
        "sparse: gradients stop without a word",
        "sparse.weight",
        "return torch.is_grad_enabled() and (x.requires_grad or",
        "return torch.is_grad_enabled() and not (x.requires_grad or",
        (SPARSE_LAYERS,),
    ),
    Fault(
        "sparse: a weight that two layers share becomes sparse in one of them",
        "sparse.applying",
        "if weight is not None and names[id(weight)] == 1",
        "if weight is not None and names[id(weight)] >= 1",
        (TUNING,),
    ),
    Fault(
        "sparse: choices of another machine are taken",
        "sparse.applying",
        "differences = list(choices.machine.differences(this_machine(weight.device)))",
        "differences = list(choices.machine.differences(choices.machine))",
        (TUNING,),
    ),
    Fault(
        "sparse: a kernel that is faster in some rounds is chosen",
        "measuring.tuning",
        "return all(sparse * (1.0 + margin) <= other",
        "return any(sparse * (1.0 + margin) <= other",
        (TUNING,),
    ),
    Fault(
        "sparse: damaged indices of a file are read",
        "sparse.kernels",
        "layout=layout, check_invariants=True",
        "layout=layout, check_invariants=False",
        (SPARSE_FILES,),
    ),
    Fault(
        "sparse: an order that is loaded is not looked at",
        "sparse.weight",
        "*(_state_of(piece) for piece in stored.flat))",
        "*(_state_of(piece) for piece in stored.flat[:3]))",
        (SPARSE_LAYERS,),
    ),
    Fault(
        "sparse: what is written into an order is not looked at",
        "sparse.weight",
        "return (piece.data_ptr(), -1 if piece.is_inference() else version_of(piece))",
        "return (piece.data_ptr(),)",
        (SPARSE_LAYERS,),
    ),
    Fault(
        "sparse: images of more channels are taken",
        "sparse.layers",
        "x.ndim in (3, 4) and x.shape[-3] == self.in_channels",
        "x.ndim in (3, 4) and x.shape[-3] >= self.in_channels",
        (SPARSE_LAYERS,),
    ),
    Fault(
        "sparse: a matrix is turned over by the wrong of its extents",
        "sparse.products",
        "return torch.channel_shuffle(pixel, rows).view(columns, rows)",
        "return torch.channel_shuffle(pixel, columns).view(columns, rows)",
        (SPARSE_LAYERS,),
    ),
    Fault(
        "sparse: the last bag is left open",
        "sparse.kernels",
        "matrix.values(), True)[0]",
        "matrix.values(), False)[0][:-1]",
        (SPARSE, SPARSE_LAYERS),
    ),
    Fault(
        "sparse: a kernel that no release has is read",
        "sparse.choices",
        "if one.kernel not in KERNELS or",
        "if one.kernel in KERNELS and",
        (TUNING,),
    ),
)
