"""The plain values that everything speaks of: graphs, edits, reports. Nothing here computes a plan."""
