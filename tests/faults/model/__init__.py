"""A model of everything around the library: random interleavings, statement by statement, and promises from outside."""
