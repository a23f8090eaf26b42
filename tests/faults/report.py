"""The report of a run: a table, and the rows of a run that has violated a rule."""

from __future__ import annotations

import json
from pathlib import Path

from joblane.record.driver.database import Database
from tests.faults.run import Findings

TABLES = """
select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('joblane', 'public') order by 1
"""


def table(findings: Findings) -> str:
    lines = [f"{findings.seconds:.0f} s", "", f"{'type':<14} {'state':<10} {'tasks':>6}"]
    lines += [f"{type_:<14} {state:<10} {number:>6}" for type_, state, number in findings.states]
    lines += ["", *(f"{name:<50} {number:>6}" for name, number in sorted(findings.counts.items()) if number)]
    if findings.wrong:
        lines += ["", f"WRONG, with seed {findings.seed}:", *findings.wrong]
    else:
        lines += ["", "No task was lost, no work was done twice, no message was left."]
    return "\n".join(lines)


def keep_rows(url: str, folder: Path) -> str:
    """Write all rows of a database into a file, as JSON. Return a line with its name."""
    file = folder / "rows.jsonl"
    with Database(url) as database, file.open("w") as kept:
        for (name,) in database.get().run(TABLES):
            for (row,) in database.get().run(f"select to_jsonb(t) from {name} t"):
                kept.write(json.dumps({name: row}) + "\n")
    return f"Its rows: {file}"
