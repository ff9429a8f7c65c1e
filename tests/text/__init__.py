"""Plans as JSON, and their differences."""
