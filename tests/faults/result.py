"""The result of a storm, a day or a seed, the sum of several, and the rows of a run that has violated a rule."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from joblane.record.driver.database import Database
from tests.ways import never_short

TABLES = """
select format('%I.%I', schemaname, tablename) from pg_tables where schemaname in ('joblane', 'public') order by 1
"""


@dataclass
class Result:
    """``held``: the last line of the table if no rule is violated. ``wrong``: the violated rules, one line each.
    ``trail``: the last things that happened."""

    seed: int
    held: str = "Every limit held."
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    trail: deque[str] = field(default_factory=lambda: deque(maxlen=40))

    def table(self) -> str:
        lines = [f"seed {self.seed}: {self.seconds:.0f} s"]
        lines += [f"{name:<60} {number:>7}" for name, number in sorted(self.counts.items())]
        return "\n".join([*lines, *(["WRONG:", *self.wrong, *self.trail] if self.wrong else [self.held])])


def together(results: Sequence[Result]) -> Result:
    """Return the sums of the counts, and the violated rules of each and of all together."""
    counts = sum((result.counts for result in results), Counter[str](seeds=len(results)))
    wrong = [f"seed {result.seed}: {line}" for result in results for line in result.wrong]
    wrong += never_short(counts)
    return Result(results[0].seed, results[0].held, sum(result.seconds for result in results), counts, wrong)


def keep_rows(url: str, folder: Path) -> str:
    """Write all rows of a database into a file, as JSON. Return a line with its name."""
    file = folder / "rows.jsonl"
    with Database(url) as database, file.open("w") as kept:
        for (name,) in database.get().run(TABLES):
            for (row,) in database.get().run(f"select to_jsonb(t) from {name} t"):
                kept.write(json.dumps({name: row}) + "\n")
    return f"Its rows: {file}"
