"""What a plan tells people: why things go or stay, tables and figures."""
