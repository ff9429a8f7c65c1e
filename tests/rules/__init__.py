"""The rules of operators against the operators themselves."""
