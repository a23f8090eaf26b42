"""The pages on tasks that wait for others are run: their Python, then their commands."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from sqlalchemy import text

from joblane.record.row.states import State
from joblane.testing import JobTester
from tests.integration.docs_page import Page

IMPORTS = "create table imports (id int primary key, source text); create table amounts (import_id int, amount int)"
MAILS = "create table readers (id int primary key, address text); create table mails (mailing_id int, reader_id int)"


def execute(jobs: JobTester, script: str) -> None:
    with jobs.session() as session:
        for statement in script.split(";"):
            session.execute(text(statement))


def begin(read: Page, jobs: JobTester, function: str, number: int) -> None:
    """Call a function of the page in a session, and run what it has enqueued."""
    with jobs.session() as session:
        read.names[function](session, number)
    jobs.drain()


def test_a_child_waits_for_its_dead_parent(docs_page: Callable[[str], Page], jobs: JobTester) -> None:
    read = docs_page("after")
    execute(jobs, IMPORTS + "; insert into imports values (7, null)")
    read.python()
    begin(read, jobs, "start_import", 7)
    read.commands()
    read.commands()
    execute(jobs, "update imports set source = '1 2' where id = 7")
    read.commands()
    jobs.drain().check()
    assert jobs.task("report-7").result == 3


@pytest.mark.parametrize(
    "name", ["test_an_import_is_reported_after_its_last_step", "test_a_report_waits_for_a_step_that_has_failed"]
)
def test_the_tests_of_an_import_pass(docs_page: Callable[[str], Page], jobs: JobTester, name: str) -> None:
    read = docs_page("after")
    execute(jobs, IMPORTS)
    read.left = [block for block in read.left if block.language == "python"]
    read.python()
    read.python()
    read.names[name](jobs)
    assert read.left == []


def test_the_end_of_a_batch_calls_back(docs_page: Callable[[str], Page], jobs: JobTester) -> None:
    read = docs_page("batches")
    execute(jobs, MAILS + "; insert into readers values (1, 'ann@example.com'), (2, null), (3, 'bob@example.com')")
    read.python()
    begin(read, jobs, "send_mails", 7)
    assert jobs.task("mailing-7:on_end").result == 2
    read.commands()
    read.commands()
    execute(jobs, "update readers set address = 'eve@example.com' where id = 2")
    read.commands()
    jobs.drain().check()
    assert jobs.task("mailing-7:on_success").state is State.COMPLETED


def test_members_are_added_by_a_member_and_in_several_transactions(
    docs_page: Callable[[str], Page], jobs: JobTester
) -> None:
    read = docs_page("batches")
    execute(jobs, MAILS + "; insert into readers select n, 'reader@example.com' from generate_series(1, 3) n")
    read.left = [block for block in read.left if block.language == "python"]
    while read.left:
        read.python()
    read.names["test_a_mailing_is_reported"](jobs)
    read.names["send_in_parts"](9, [[1], [2, 3]])
    jobs.drain().check()
    assert jobs.task("mailing-9:on_end").result == 3
