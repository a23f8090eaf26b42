"""The pages on limits and debounce are run: their Python, then their commands, whose outputs are as on the page.

A test claims tasks of the page, as a worker does, and leaves them running while the commands run.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from joblane.cli import connect as connecting
from joblane.cli import target
from joblane.cli.main import main
from joblane.declaration import Task
from joblane.inspector.inspector import Inspector
from joblane.inspector.scope import Scope
from joblane.queues import Queue
from joblane.record import audit
from joblane.record.claim import arrival, claim
from joblane.record.database import Database
from joblane.record.states import State
from joblane.sqs.message import Message
from joblane.testing import JobTester
from tests.pages import ROOT, Block, blocks

HOW_TO = ROOT / "docs" / "how-to"
LEASE = timedelta(seconds=65)
WHO = "ann@laptop"
HOUR = timedelta(hours=1)


class Page:
    """A page of which a test runs one block after the other."""

    def __init__(self, name: str, jobs: JobTester, capsys: pytest.CaptureFixture[str]) -> None:
        self.path = HOW_TO / f"{name}.md"
        self.names: dict[str, Any] = {"__name__": "a_page"}
        self.tasks: dict[str, Task[Any, Any]] = {}
        self.left = sorted(
            (block for language in ("python", "sh", "text") for block in blocks(language, self.path)),
            key=lambda block: block.line,
        )
        self._jobs, self._capsys = jobs, capsys

    def python(self) -> None:
        """Run the next block of Python. The tasks that it declares are known from then on, as after a deploy."""
        block = self._next("python")
        source = "\n" * block.line + block.text  # so that a traceback has the line of the page
        exec(compile(source, str(self.path), "exec", dont_inherit=True), self.names)
        declared = {each.type: each for each in self.names.values() if isinstance(each, Task)}
        self._jobs.register(*(task for type_, task in declared.items() if type_ not in self.tasks))
        self.tasks |= declared

    def commands(self) -> None:
        """Run the next block of commands, and compare their output with the block that follows."""
        ran = self._next("sh")
        output = "".join(self._run(line) for line in ran.text.splitlines())
        check_output(self._next("text"), output)

    def start(self, *ids: str) -> None:
        """Claim tasks, one after the other. Those that get their slots run from now on; the others are held."""
        with Database(self._jobs.url) as database:
            for id_ in ids:
                ((type_,),) = database.get().run("select type from joblane.tasks where id = $1", id_)
                message = Message(type_, id_, rec=True)
                claim(database.get(), [arrival(self.tasks[type_], message, id_, Queue.DEFAULT)], LEASE, "request")

    def states(self, *ids: str) -> list[State]:
        return [self._jobs.task(id_).state for id_ in ids]

    def _next(self, language: str) -> Block:
        block = self.left.pop(0)
        assert block.language == language, f"{block} is a block of {block.language}"
        return block

    def _run(self, line: str) -> str:
        program, *arguments = shlex.split(line)
        assert program == "joblane"
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        output, errors = self._capsys.readouterr()
        assert not ended.value.code, f"{line}: {errors}"
        return output + errors


def check_output(block: Block, output: str) -> None:
    """Compare an output with that on the page. A last line ``…`` on the page stands for the rest."""
    shown, whole = normal(block.text), normal(output)
    if shown[-1] == "…":
        shown, whole = shown[:-1], whole[: len(shown) - 1]
    assert shown == whole, f"{block}: the output is\n{output}"


def normal(output: str) -> list[str]:
    """The words of an output, without times: a time may be broken into two lines."""
    output = re.sub(r"\d{4}-\d\d-\d\d\s+\d\d:\d\d:\d\dZ", "TIME", output)
    return re.sub(r"\b\d+[smhd]\b", "DURATION", output).split()


@pytest.fixture
def page(
    jobs: JobTester, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[str], Page]]:
    """Return a page. Its commands are those of the operator ``ann@laptop``, at a terminal of 100 columns."""
    database, tasks = Database(jobs.url), dict[str, Task[Any, Any]]()
    operator = Inspector(Scope(database, jobs._queues, "jobs", tasks, WHO))
    monkeypatch.setattr(connecting, "connect", lambda **_: operator)
    monkeypatch.setattr(target, "program", lambda: "joblane")
    monkeypatch.setattr(audit, "user_of_process", lambda: WHO)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("JOBLANE_STAGE", raising=False)

    def read(name: str) -> Page:
        made = Page(name, jobs, capsys)
        made.tasks = tasks
        return made

    yield read
    database.drop()


@pytest.mark.parametrize(
    ("name", "ids"),
    [
        ("limit-per-key", ["acme-1", "acme-2", "acme-3", "acme-4", "globex-1"]),
        ("limit-one", ["rebuild-acme", "rebuild-globex", "rebuild-initech"]),
        ("limit-shared", ["summary-1", "summary-2", "summary-3", "search-1", "search-2", "search-3"]),
    ],
)
def test_the_limits_of_a_page_hold_and_are_shown(page: Callable[[str], Page], name: str, ids: list[str]) -> None:
    read = page(name)
    read.python()
    read.start(*ids)
    while read.left:
        read.commands()


def test_a_task_that_failed_keeps_its_place_until_an_operator_passes_it(
    page: Callable[[str], Page], jobs: JobTester
) -> None:
    read = page("limit-order")
    read.python()
    jobs.drain()
    while read.left:
        read.commands()
    jobs.drain().check()
    assert read.states("change-1", "change-2", "change-3") == [State.RETRY, State.COMPLETED, State.COMPLETED]


def test_a_rate_and_a_refusal_give_times(page: Callable[[str], Page], jobs: JobTester) -> None:
    read = page("limit-rate")
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
    assert read.left == []


def test_limits_are_changed_by_commands_and_by_a_program(page: Callable[[str], Page], jobs: JobTester) -> None:
    read = page("limit-change")
    read.python()
    read.start("sync-1")
    jobs.drain()
    assert read.states("sync-1", "sync-2", "sync-3") == [State.ACTIVE, State.HELD, State.HELD]
    for _ in range(3):
        read.commands()
    read.python()
    assert read.left == []


def test_held_tasks_are_shown(page: Callable[[str], Page]) -> None:
    read = page("limit-held")
    read.python()
    read.start("sync-1", "sync-2", "sync-3")
    read.commands()
    read.commands()
    assert [block.language for block in read.left] == ["python"]


def test_the_test_of_a_held_task_passes(page: Callable[[str], Page], jobs: JobTester) -> None:
    read = page("limit-held")
    read.left = [block for block in read.left if block.language == "python"]
    read.python()
    read.python()
    jobs.drain().check()
    read.names["test_an_account_waits_for_its_limit"](jobs)


def test_a_debounced_task_is_shown_and_its_test_passes(page: Callable[[str], Page], jobs: JobTester) -> None:
    read = page("debounce")
    read.python()
    read.commands()
    read.python()
    jobs.drain(within=timedelta(seconds=10)).check()
    assert read.states("rebuild-1") == [State.COMPLETED]
    read.names["test_a_burst_of_changes_is_one_rebuild"](jobs)
    assert read.left == []
