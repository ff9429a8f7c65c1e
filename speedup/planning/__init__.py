"""From facts to edits: coupling, what a small model must trace to, and a rehearsal of it."""
