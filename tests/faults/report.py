"""What came of a run, as a table."""

from __future__ import annotations

from tests.faults.run import Findings


def table(findings: Findings) -> str:
    lines = [f"{findings.seconds:.0f} s", "", f"{'type':<14} {'state':<10} {'tasks':>6}"]
    lines += [f"{type_:<14} {state:<10} {number:>6}" for type_, state, number in findings.states]
    lines += ["", *(f"{what:<32} {number:>6}" for what, number in sorted(findings.counts.items()) if number)]
    if findings.wrong:
        lines += ["", f"WRONG, with seed {findings.seed}:", *findings.wrong]
    else:
        lines += ["", "Nothing lost, nothing done twice, nothing left behind."]
    return "\n".join(lines)
