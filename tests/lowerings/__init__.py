"""What calls may become, and the functions that rewritten source calls."""
