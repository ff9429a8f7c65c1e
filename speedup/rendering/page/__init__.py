"""A plan as HTML that needs nothing else: summary, graph, layers, and what could go but stays."""
