"""The pages on limits are run: their Python, then their commands, whose outputs are compared with those on the page.

A test claims tasks of the page, as a worker does, and leaves them running while the commands run.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from joblane.record.row.states import State
from joblane.testing import JobTester
from tests.integration.docs_page import Page

HOUR = timedelta(hours=1)


def test_the_limits_of_a_page_hold_and_are_shown(docs_page: Callable[[str], Page]) -> None:
    read = docs_page("limits")
    for ids in (
        ["acme-1", "acme-2", "acme-3", "acme-4", "globex-1"],
        ["rebuild-acme", "rebuild-globex", "rebuild-initech"],
        ["summary-1", "summary-2", "summary-3", "search-1", "search-2", "search-3"],
    ):
        read.python()
        read.start(*ids)
        while read.left and read.left[0].language == "sh":
            read.commands()
    assert read.left == []


def test_a_task_that_failed_keeps_its_place_until_an_operator_passes_it(
    docs_page: Callable[[str], Page], jobs: JobTester
) -> None:
    read = docs_page("limit-order")
    read.python()
    jobs.drain()
    while read.left:
        read.commands()
    jobs.drain().check()
    assert read.states("change-1", "change-2", "change-3") == [State.RETRY, State.COMPLETED, State.COMPLETED]


def test_a_rate_and_a_refusal_give_times(docs_page: Callable[[str], Page], jobs: JobTester) -> None:
    read = docs_page("limit-rate")
    read.python()
    jobs.drain()
    assert read.states("mail-1", "mail-2", "mail-3") == [State.COMPLETED, State.PENDING, State.PENDING]
    read.commands()
    read.commands()
    jobs.drain(within=HOUR).check()
    read.python()
    jobs.drain(within=timedelta(minutes=1))
    for _ in range(3):
        read.commands()
    read.python()
    jobs.client.cancel("mail-busy")
    jobs.drain(within=2 * HOUR)
    read.names["test_mails_start_one_after_the_other"](jobs)
    assert read.left == []


def test_limits_are_changed_by_commands_and_by_a_program(docs_page: Callable[[str], Page], jobs: JobTester) -> None:
    read = docs_page("limit-change")
    read.python()
    read.start("sync-1")
    jobs.drain()
    assert read.states("sync-1", "sync-2", "sync-3") == [State.ACTIVE, State.HELD, State.HELD]
    for _ in range(3):
        read.commands()
    read.python()
    assert len(read.left) == 1  # the test of a held task


def test_the_test_of_a_held_task_passes(docs_page: Callable[[str], Page], jobs: JobTester) -> None:
    read = docs_page("limit-change")
    programs = [block for block in read.left if block.language == "python"]
    read.left = [programs[0], programs[-1]]
    read.python()
    read.python()
    jobs.drain().check()
    read.names["test_an_account_waits_for_its_limit"](jobs)
