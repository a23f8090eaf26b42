"""The library's functions in the database: what a reader compares, and what the renderer promises."""

from __future__ import annotations

import itertools
import re
from graphlib import CycleError

import pytest

from joblane.record import sql_functions as functions
from joblane.record.row import transitions
from joblane.record.sql_functions import FUNCTIONS, NAMES, STEPS, assigned
from joblane.record.task import claim, finish, insert
from joblane.record.task.claim import Verdict

TEMPLATE = (functions.FOLDER / "task" / "claim.sql").read_text()
DECISION = TEMPLATE[TEMPLATE.index("      -- Decide.") : TEMPLATE.index("      -- Write.")].rstrip()


def table() -> list[tuple[str, str, set[str]]]:
    """Return the rows of the table in the docstring: row, message and the verdicts that the third column names."""
    assert claim.__doc__ is not None
    rule = re.search(r"^(=+)  (=+)  =+$", claim.__doc__, re.M)
    assert rule
    first, second = len(rule[1]) + 2, len(rule[1]) + len(rule[2]) + 4
    lines = claim.__doc__.split(rule[0])[2].strip("\n").splitlines()
    rows: list[list[str]] = []
    for line in lines:
        cells = [line[:first].strip(), line[first:second].strip(), line[second:].strip()]
        if cells[0]:
            rows.append(cells)
        else:  # a cell of two lines
            rows[-1] = [f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)]
    return [
        (row.replace("``", ""), message, {word for word in re.findall(r"``(\w+)``", verdict) if word in set(Verdict)})
        for row, message, verdict in rows
    ]


def leaves() -> list[tuple[str, str, set[str]]]:
    """Return the branches of the decision: their comments, and the verdict that each sets."""
    parts = re.split(r"-- ([^:\n]+): ([^\n]+)\n", DECISION.partition("\n")[2])[1:]
    return [
        (row, message, set(re.findall(r"verdict := '(\w+)'", body)))
        for row, message, body in zip(parts[::3], parts[1::3], parts[2::3], strict=True)
    ]


def test_the_branches_of_the_claim_are_the_rows_of_its_table_in_order() -> None:
    assert leaves() == table()
    assert set().union(*(verdicts for _, _, verdicts in table())) == set(Verdict) - {Verdict.REFUSED}


def test_every_branch_of_the_decision_has_a_row_and_one_verdict() -> None:
    assert DECISION.count("verdict :=") == len(leaves())
    assert all(len(verdicts) == 1 for _, _, verdicts in leaves())
    lines = DECISION.splitlines()
    for line, following in itertools.pairwise(lines):
        if re.match(r"\s+(if|elsif|else)\b", line):
            assert "-- " in line or following.strip().startswith("if "), line


def test_a_reader_sees_the_whole_decision_on_one_page() -> None:
    assert len(DECISION.splitlines()) <= 78


def test_every_transition_of_the_claim_is_used_by_it() -> None:
    assert {name for name in STEPS if f"@{name}\n" in DECISION} == set(STEPS)


@pytest.mark.parametrize("name", STEPS)
def test_no_assignment_reads_a_column_that_was_assigned_before(name: str) -> None:
    done: set[str] = set()
    for column, value in re.findall(r"t\.(\w+) := ([^;]+);", assigned(getattr(transitions, name.upper()))):
        assert not (set(re.findall(r"\bt\.(\w+)", value)) - {column}) & done
        done.add(column)
    assert done == set(getattr(transitions, name.upper()))


def test_columns_that_read_each_other_are_refused() -> None:
    with pytest.raises(CycleError):
        assigned({"a": "t.b", "b": "t.a"})


def test_every_name_of_a_template_is_replaced() -> None:
    assert [text for text in FUNCTIONS.values() if re.search("@[a-z]", text)] == []


def test_the_version_follows_from_the_text() -> None:
    assert functions.version_of({"claim": "a"}) != functions.version_of({"claim": "b"})
    assert re.fullmatch(r"[0-9a-f]{8}", functions.VERSION)
    assert all(f"create or replace function joblane.{name}_{functions.VERSION}(" in FUNCTIONS[name] for name in NAMES)


def test_what_a_driver_has_to_read_is_short() -> None:
    assert max(len(call) for call in (claim.CLAIM, finish.FINISH, insert.INSERT)) <= 60
