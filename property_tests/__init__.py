"""Property tests: laws that must hold for every network that Hypothesis can think of."""
