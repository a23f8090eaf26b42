"""Tasks with and without events."""
