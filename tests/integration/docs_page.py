"""A page of the documentation that a test runs: its Python, then its commands, whose outputs are compared with it."""

from __future__ import annotations

import re
import shlex
from datetime import timedelta
from typing import Any

import pytest

from joblane.cli.main import main
from joblane.names import Queue
from joblane.record.driver.database import Database
from joblane.record.row.states import State
from joblane.record.task.claim import arrival, claim
from joblane.sqs.message import Message
from joblane.tasks.task import Task
from joblane.testing import JobTester
from tests.pages import ROOT, Block, blocks

HOW_TO = ROOT / "docs" / "how-to"
LEASE = timedelta(seconds=65)
WHO = "ann@laptop"


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
