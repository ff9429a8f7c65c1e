"""A user's package with a model of its own."""
