"""The part on debounce of the page on unique tasks is run: its Python, then its command, and its test."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from joblane.record.row.states import State
from joblane.testing import JobTester
from tests.integration.docs_page import Page


def test_a_debounced_task_is_shown_and_its_test_passes(docs_page: Callable[[str], Page], jobs: JobTester) -> None:
    read = docs_page("unique")
    read.python()
    read.python()
    read.commands()
    read.python()
    jobs.drain(within=timedelta(seconds=10)).check()
    assert read.states("index-1") == [State.COMPLETED]
    read.names["test_a_burst_of_changes_is_one_run"](jobs)
    assert read.left == []
