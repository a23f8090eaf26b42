"""A task by its id or by the beginning of its id, for commands and pages that read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.errors import UnknownTaskError
from joblane.inspector.errors import SelectionError
from joblane.inspector.filter import Filter

if TYPE_CHECKING:
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import TaskView

NAMED = 5


def task_of(inspector: Inspector, text: str) -> TaskView:
    """All details of the task with this id, or of the only task whose id begins with ``text``.

    Raises :class:`~joblane.errors.UnknownTaskError`, and :class:`~joblane.inspector.errors.SelectionError` with some of
    the ids if several begin so.
    """
    try:
        return inspector.task(text)
    except UnknownTaskError:
        if not text.strip():
            raise
        try:
            page = inspector.tasks(Filter(id_prefix=text), limit=NAMED)
        except SelectionError:  # it cannot be the beginning of an id
            page = None
        if page is None or not (page.tasks or page.after):
            raise
    if len(page.tasks) == 1 and page.after is None:
        return inspector.task(page.tasks[0].id)
    ids = ", ".join(row.id for row in page.tasks)
    more = ", and more" if page.after is not None else ""
    raise SelectionError("id", f"several ids begin with {text!r}: {ids}{more}; give more of it")
