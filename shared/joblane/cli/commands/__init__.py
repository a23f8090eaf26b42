"""The commands of `joblane`, in a module for each purpose; ``joblane.cli.main`` lists them all.

Slow imports are inside the commands: `joblane --help` and the shell's completion import all these modules.
"""
