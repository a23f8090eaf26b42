"""Without a name of botocore or urllib3 that the sender uses, boto3 sends each message, once, and a log line says so.

The names come from the source of the sender. Each is removed in turn: its places in the source raise.
"""

from __future__ import annotations

import ast
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from joblane import telemetry
from joblane.sqs import boto3_sender, sender
from joblane.sqs.client import Sqs
from tests.fake_sqs import FakeSqs
from tests.unit.sqs.conftest import OPERATIONS, arguments_of

SOURCE = ast.parse(Path(sender.__file__).read_text())
NAME = sender.__name__
LIBRARIES = ("botocore", "urllib3")
PLACES = {"Template", "Sender.send", "Sender._headers", "Sender._template", "_handlers", "_calls", ""}
"""The classes and functions that use objects of the libraries, and the module itself. ``Sender._before_send`` gets the
documented arguments of an event."""
OWN = {"self", "cls", "template", "urlsplit"}
READ = {"status", "stream"}
"""urllib3's names of an answer, which are used after a message has left only."""


def imported() -> Iterator[str]:
    """Yield the names that the module imports from the libraries when it runs."""
    for statement in SOURCE.body:
        if isinstance(statement, ast.ImportFrom) and str(statement.module).startswith(LIBRARIES):
            yield from (alias.name for alias in statement.names)


class Names(ast.NodeTransformer):
    """The module without a name: its import, or each read of the attribute in :data:`PLACES`, raises ``error``.

    ``used``: the attributes that are read, with the error of a missing attribute, or of a call with other arguments.
    """

    def __init__(self, name: str = "", error: str = "") -> None:
        self._name, self._error = name, error
        self._own = OWN | {alias.name for one in SOURCE.body if isinstance(one, ast.Import) for alias in one.names}
        self._at = ""
        self.used: set[tuple[str, str]] = set()

    def _inside(self, node: Any) -> Any:
        outer, self._at = self._at, self._at if self._at in PLACES - {""} else f"{self._at}.{node.name}".lstrip(".")
        try:
            return self.generic_visit(node)
        finally:
            self._at = outer

    visit_ClassDef = visit_FunctionDef = _inside  # noqa: N815 - ast's names

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AnnAssign:
        node.value = node.value and self.visit(node.value)  # annotations are not evaluated
        return node

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        taken = str(node.module).startswith(LIBRARIES) and self._name in {alias.name for alias in node.names}
        return ast.copy_location(ast.Expr(self._raising()), node) if taken else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Attribute) and self._is_foreign(node.func):
            self.used.add((node.func.attr, "TypeError"))
        return self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        if not self._is_foreign(node):
            return node
        self.used.add((node.attr, "AttributeError"))
        return ast.copy_location(self._raising(), node) if node.attr == self._name else node

    def _is_foreign(self, node: ast.Attribute) -> bool:
        """Return true if an attribute may belong to the libraries. Those of strings and dicts are left out."""
        is_own = getattr(node.value, "id", None) in self._own or hasattr(str, node.attr) or hasattr(dict, node.attr)
        return self._at in PLACES and isinstance(node.ctx, ast.Load) and not is_own

    def _raising(self) -> ast.Call:
        return ast.Call(ast.Name("without", ast.Load()), [ast.Constant(self._name), ast.Constant(self._error)], [])


def used() -> list[tuple[str, str]]:
    names = Names()
    names.visit(ast.parse(ast.unparse(SOURCE)))
    return sorted(names.used)


def without(name: str, error: str) -> None:
    raise {"AttributeError": AttributeError, "ImportError": ImportError, "TypeError": TypeError}[error](name)


def load(name: str, error: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Let the next sender come from a module without a name. Return the name of the error that it logs."""
    module = ModuleType(NAME)
    module.__dict__["without"] = without
    tree = ast.fix_missing_locations(Names(name, error).visit(ast.parse(ast.unparse(SOURCE))))
    monkeypatch.setitem(sys.modules, NAME, module)
    try:
        exec(compile(tree, str(sender.__file__), "exec"), module.__dict__)
    except (AttributeError, ImportError, TypeError):
        monkeypatch.setitem(sys.modules, NAME, None)  # an import of it fails
        return "ModuleNotFoundError"
    return error


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Record the warnings that boto3 sends."""
    lines: list[dict[str, Any]] = []
    monkeypatch.setattr(boto3_sender, "_logged", threading.Lock())
    monkeypatch.setattr(telemetry.logger(), "warning", lambda _text, extra: lines.append(extra))
    return lines


def send_each(server: FakeSqs) -> list[Any]:
    """Send three messages by each operation. Return the answers."""
    server.accepted = Counter()
    sqs, answers = Sqs(), []
    for number in range(3):
        for operation in OPERATIONS:
            body = f"{number} {operation}"
            answers.append(sqs.sender.send(operation, arguments_of(operation, body), keeps_chain=False))
            assert server.accepted[body] == 1
    return answers


@pytest.mark.parametrize(("name", "error"), used())
def test_a_name_that_is_missing_or_called_otherwise_loses_no_message(
    name: str, error: str, server: FakeSqs, by_boto3: list[str], lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = load(name, error, monkeypatch)
    answers = send_each(server)
    assert answers.count({}) == (2 if name in READ else 0)  # the sends that tried it: SQS may have accepted the message
    if name.startswith("_") or lines:
        assert [line["error_type"] for line in lines] == [logged]
        assert len(by_boto3) == len(answers) - answers.count({})


@pytest.mark.parametrize("name", sorted(set(imported())))
def test_a_name_that_cannot_be_imported_leaves_all_sends_to_boto3(
    name: str, server: FakeSqs, by_boto3: list[str], lines: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged = load(name, "ImportError", monkeypatch)
    answers = send_each(server)
    assert {} not in answers
    assert len(by_boto3) == len(answers)
    assert [line["error_type"] for line in lines] == [logged]


def test_the_names_that_are_removed_are_those_that_the_sender_uses() -> None:
    assert {"_make_api_call", "_emitter", "_get_connection_manager", "make_request"} <= {name for name, _ in used()}
    assert {"AWSResponse", "standard", "httpsession", "Retry"} <= set(imported())
