"""From one forward to a graph."""
