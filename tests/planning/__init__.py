"""The pipeline from a model and masks to a plan."""
