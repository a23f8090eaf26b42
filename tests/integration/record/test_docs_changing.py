"""The SQL and settings of `docs/how-to/change-safely.md` run, and what it says about a cancel holds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from joblane.record.driver.database import Database
from joblane.tasks.discovery import discover
from joblane.tasks.schedule_overrides import apply_all

TEXT = (Path(__file__).resolve().parents[3] / "docs" / "how-to" / "change-safely.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^ *```{language}\n(.*?)^ *```$", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    with Database(database_url) as database:
        yield database


def test_the_sql_shows_live_tasks_and_cancels_them(database: Database) -> None:
    # given a waiting task
    show, cancel = blocks("sql")
    connection = database.get()
    connection.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds)"
        " values ('it', 'data:copy', 'low', 'scheduled', '', 1, 60)"
    )
    assert connection.run(show) == [["data:copy", "low", "scheduled", 1]]
    # when it is cancelled
    connection.run(cancel)
    # then it is not shown any more, and its end is complete
    assert connection.run(show) == []
    assert connection.run("select count(*) from joblane.tasks where expire_at > finished_at") == [[1]]


def test_the_overrides_are_those_of_existing_schedules() -> None:
    (times,) = (json.loads(block) for block in blocks("json schedules"))
    tasks = apply_all(discover(times={}), times)
    assert tasks["system:health_check"].schedules == ()
    assert [schedule.text for schedule in tasks["system_user:expiry"].schedules] == ["0 2 * * *"]
