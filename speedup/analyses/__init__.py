"""What a graph tells with the help of rules: constants, liveness, widths."""
