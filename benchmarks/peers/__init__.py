"""Other tools on the same models with the same masks, each in an environment and a process of its own."""
