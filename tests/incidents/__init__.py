"""Thirteen incidents of a stage, which tests and pictures of the page share.

``platform``: the task types. ``happens``: a function for each incident. ``table``: the surfaces that show it, its cure,
and the steps. ``python -m tests.incidents`` serves the page with all of them, and takes pictures of it.
"""
