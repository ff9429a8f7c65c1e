"""What the tests and the benchmarks share: models, states, masks and the comparison with the oracle."""
