"""The pages and actions: one module for each area."""
