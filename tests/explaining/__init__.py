"""Why each index goes or stays."""
