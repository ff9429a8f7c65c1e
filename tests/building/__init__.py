"""Small models made from plans, and verified."""
