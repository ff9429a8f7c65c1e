"""Can a forward's own code carry other sizes? And how its source is changed where it cannot."""
