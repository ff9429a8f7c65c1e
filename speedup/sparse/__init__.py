"""Kernels for weights that are still sparse when everything whole has gone.

A matrix is stored as the blocks of it that are not zero (`compressed.py`), blocks of one element being CSR. A
kernel is a form of such a matrix that torch multiplies by (`kernels.py`). `SparseLinear`, `SparseConv2d` and
`SparseConv1D` are layers with such a weight (`layers.py`). Which layers gain is not known but measured
(`measuring/tuning.py`); what was chosen is a value (`measured.py`, `choices.py`), which `materialize` applies
(`applying.py`).
"""
