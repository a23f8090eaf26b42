"""Faults of the mechanisms of declarations, batches and moves are found by their own tests."""

from __future__ import annotations

import pytest

from tests.mutants import NOT_FOUND, Fault, check
from tests.pages import ROOT

LIBRARY = "shared/joblane"
MISTAKES = "tests/integration/mistakes/test_mistakes.py::test_a_mistake_in_"
CHECK = "tests/unit/cli/test_check.py"
SQL = (ROOT / LIBRARY / "record" / "sql_functions.py").read_text()
FUNCTIONS = SQL[SQL.index("VERSION = ver") : SQL.index("\nKEPT = 2\n")] + "\nKEPT = 2"
FORGOTTEN = FUNCTIONS.replace("version_of(_RENDERED)", "'00000001'").replace("KEPT = 2", "KEPT = 1")
"""Another version of the functions, whose migration drops those of the release before."""
PLANTS = {
    "hints": (
        [f"{MISTAKES}a_declaration_says_what_is_right", f"{MISTAKES}an_enqueue_says_what_is_right"],
        [
            ("tasks/arguments.py", "        if name not in parameters:", "        if name in parameters:"),
            (
                "tasks/arguments.py",
                "    if there is not None and there not in names:",
                "    if there is not None and there in names:",
            ),
        ],
    ),
    "check": (
        [CHECK],
        [
            ("tasks/discovery.py", '        found.append(Broken("", str(error)))', "        pass"),
            ("tasks/discovery.py", '            found.append(Broken("", str(error)))', "            pass"),
            ("cli/commands/scaffold.py", "        raise typer.Exit(Exit.FAILED)", "        pass"),
        ],
    ),
    "lock": (
        [CHECK],
        [
            ("local/own_lock.py", "    if done.returncode:", "    if not done.returncode:"),
            ("local/own_lock.py", "    is_new = project.lock == RUNTIME", "    is_new = project.lock != RUNTIME"),
        ],
    ),
    "abatch": (
        ["tests/integration/enqueue/test_async_outbox.py"],
        [
            ("client/async_batch.py", "        if not self._has_session:", "        if self._has_session:"),
            ("client/async_batch.py", "        await self._call(self._batch.__enter__)", "        pass"),
        ],
    ),
    "upgrade": (["tests/integration/upgrade"], [("record/sql_functions.py", FUNCTIONS, FORGOTTEN)]),
    "move celery": (
        ["tests/integration/cli/test_move.py"],
        [
            ("cli/moving/beat.py", "    if seconds < 60 or seconds % 60:", "    if seconds < 60:"),
            (
                "cli/moving/handlers.py",
                '        if "autoretry_for" not in given:',
                '        if "autoretry_for" in given:',
            ),
        ],
    ),
}
"""Mechanism → its tests, and faults: a file, a line, and what a fault makes of it."""


@pytest.mark.plants
@pytest.mark.parametrize("mechanism", PLANTS)
def test_each_planted_fault_of_a_mechanism_is_found(mechanism: str) -> None:
    tests, faults = PLANTS[mechanism]
    again = [Fault(f"{LIBRARY}/{file}", 1, before, after) for file, before, after in faults]
    checked = check(ROOT, tests, places=[LIBRARY], seed=1, number=0, again=again)
    assert [fault for fault in checked if fault.found.startswith(("gone", NOT_FOUND))] == []
