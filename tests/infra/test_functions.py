"""The discovery of functions with their own handler among the tasks."""

from __future__ import annotations

from pathlib import Path

import pytest

from joblane.errors import DeclarationError
from joblane.tasks.discovery import discover, discover_functions
from tests.infra.conftest import TASKS


def test_the_apis_are_functions_and_not_tasks() -> None:
    assert list(discover_functions()) == ["api", "control"]
    assert not {"api", "control"} & {task.folder for task in discover().values()}


def test_a_function_knows_its_handler_in_the_project_or_in_the_library() -> None:
    entries = {name: declared.handler for name, declared in discover_functions().items()}
    assert entries == {
        "api": "functions.api.handler.handler",
        "control": "joblane.functions.control.handler.handler",
    }


def test_the_types_that_the_api_may_enqueue_exist() -> None:
    assert set(discover_functions()["api"].enqueue) <= discover().keys()


def test_handlers_without_a_declaration_are_skipped() -> None:
    assert list(discover_functions(TASKS)) == ["control", "gateway"]


@pytest.mark.parametrize(
    "text",
    [
        "FUNCTION = 'api'\ndef handler(event, context): ...",
        "from joblane.tasks import function\nFUNCTION = function.Function('Answers', None, 128)",
    ],
)
def test_an_incomplete_declaration_is_refused_with_its_place(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = f"half_{abs(hash(text))}"
    folder = tmp_path / package / "own"
    folder.mkdir(parents=True)
    (tmp_path / package / "__init__.py").touch()
    (folder / "handler.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        DeclarationError, match=rf"{package}/own/handler.py: a FUNCTION of joblane.tasks.function and a handler"
    ):
        discover_functions(package)
