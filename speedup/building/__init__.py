"""From a plan to a model: edits applied to a copy, and that the copy computes the same. Decides nothing."""
