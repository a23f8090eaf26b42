"""`joblane dev` registers the schedules of the code with its types, at the start and after each save."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from joblane import Payload, TaskContext, cron, task
from joblane.local.dev import forked
from joblane.record.driver.database import Database
from joblane.tasks.task import Task


class OrderCount(Payload):
    """Empty."""


@task("order:count", schedule=cron("0 6 * * *", name="daily"))
def order_count(payload: OrderCount, ctx: TaskContext) -> None: ...


def test_a_save_registers_changed_schedules_unless_a_handler_is_broken(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("joblane.settings.migrations", lambda: None)
    later = replace(order_count, schedules=(cron("0 7 * * *", name="daily"),))
    with Database(database_url) as database:

        def saved(task_: Task[Any, Any] | None, *, complete: bool = True) -> list[list[Any]]:
            tasks = {} if task_ is None else {task_.type: task_}
            forked._migrate(database, database_url, tasks, tmp_path / "stamp", complete=complete)
            return database.get().run("select name, expression from joblane.schedules")

        assert saved(order_count) == [["order:count:daily", "0 6 * * *"]]
        assert saved(later) == [["order:count:daily", "0 7 * * *"]]
        assert saved(None, complete=False) == [["order:count:daily", "0 7 * * *"]]
        assert saved(None) == []
