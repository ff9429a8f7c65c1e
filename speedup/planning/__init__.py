"""From facts to edits: coupling, edits, compensation, and a rehearsal of the small model."""
