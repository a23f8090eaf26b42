"""What each address shows or does: one module per area."""
