"""Thousands of jobs while everything around them fails: see :mod:`tests.faults.run`."""
