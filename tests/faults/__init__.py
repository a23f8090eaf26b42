"""Thousands of jobs while everything around them breaks: see :mod:`tests.faults.run`."""
