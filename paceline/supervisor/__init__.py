"""The parent of all processes."""
