"""From a model to a graph: a traced forward, what it saw of sizes, and what cannot be traced as a whole."""
