"""Plans as text and small models in files, and what of a file may be trusted."""
