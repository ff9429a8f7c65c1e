"""The grammar of networks: which blocks may follow a value of a given shape, and how they are drawn."""
