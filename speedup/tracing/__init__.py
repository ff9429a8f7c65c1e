"""From a model to a graph: torch.export, what it saw of sizes, and what cannot be traced as a whole."""
