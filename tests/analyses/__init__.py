"""What is known, read and aligned, over whole graphs."""
