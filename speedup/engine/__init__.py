"""The fixpoint engine and its lattice. It names no operator."""
