"""The report of a run, as a table."""

from __future__ import annotations

from tests.faults.run import Findings


def table(findings: Findings) -> str:
    lines = [f"{findings.seconds:.0f} s", "", f"{'type':<14} {'state':<10} {'tasks':>6}"]
    lines += [f"{type_:<14} {state:<10} {number:>6}" for type_, state, number in findings.states]
    lines += ["", *(f"{name:<50} {number:>6}" for name, number in sorted(findings.counts.items()) if number)]
    if findings.wrong:
        lines += ["", f"WRONG, with seed {findings.seed}:", *findings.wrong]
    else:
        lines += ["", "No task was lost, no work was done twice, no message was left."]
    return "\n".join(lines)
