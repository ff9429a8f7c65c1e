"""A plan's edits on tensors alone: one tensor or some of its rows, state dicts, the state of optimizers."""
