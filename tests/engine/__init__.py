"""The lattice, index maps and fixpoints over graphs without a meaning."""
