"""From facts to edits: coupling, edits, what they pay, and a rehearsal of the small model."""
