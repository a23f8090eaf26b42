"""The sentences of operators, each written once: what an action did, why something waits, what a number leaves out.

The command line, `joblane watch` and the page print them. Programs and tests compare the fields of the answers.
"""
