"""The commands of `joblane`, a module for each thing that people come for; ``joblane.cli.main`` names them all.

A module imports what it needs when a command runs: `joblane --help` and the shell's completion wait for it.
"""
