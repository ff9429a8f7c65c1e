"""Plans as text and back, and what differs between two of them. Nothing in a text is run."""
