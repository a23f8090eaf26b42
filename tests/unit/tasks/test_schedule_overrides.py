"""The times of a stage, which replace the declared ones."""

from __future__ import annotations

from typing import Any

import pytest

from joblane import Payload, TaskContext, cron, task
from joblane.errors import DeclarationError
from joblane.tasks.discovery import discover, load
from joblane.tasks.schedule_overrides import apply, apply_all, minutes_of, of_environment
from joblane.tasks.task import Task


class Clean(Payload):
    scope: str = "day"


@task("data:clean", schedule="0 2 * * *")
def data_clean(payload: Clean, ctx: TaskContext) -> None:
    pass


@task(
    "data:count",
    schedule=[
        "0 3 * * *",
        cron("0 8 * * 0", timezone="Europe/Berlin", payload={"scope": "week"}, name="weekly", missed="skip"),
    ],
)
def data_count(payload: Clean, ctx: TaskContext) -> None:
    pass


@task("data:copy")
def data_copy(payload: Clean, ctx: TaskContext) -> None:
    pass


TASKS: dict[str, Task[Any, Any]] = {task_.type: task_ for task_ in (data_clean, data_count, data_copy)}


def texts(task_: Task[Any, Any]) -> dict[str | None, str]:
    return {schedule.name: schedule.text for schedule in task_.schedules}


def test_an_override_changes_only_the_times_of_a_schedule() -> None:
    changed = apply(data_count, {"data:count:weekly": "@monthly"})
    assert texts(changed) == {"0": "0 3 * * *", "weekly": "0 0 1 * *"}
    weekly = changed.schedules[1]
    assert (weekly.timezone, weekly.payload, weekly.missed) == ("Europe/Berlin", {"scope": "week"}, "skip")
    assert weekly.expressions == ("cron(0 0 1 * ? *)",)
    assert (changed.function, changed.numbers) == (data_count.function, data_count.numbers)
    assert texts(data_count) == {"0": "0 3 * * *", "weekly": "0 8 * * 0"}


def test_off_removes_a_schedule_and_the_more_specific_key_wins() -> None:
    assert texts(apply(data_count, {"data:count": "off"})) == {}
    assert texts(apply(data_count, {"data:count:0": "off"})) == {"weekly": "0 8 * * 0"}
    assert texts(apply(data_count, {"data:count": "off", "data:count:weekly": "@daily"})) == {"weekly": "0 0 * * *"}


def test_a_task_without_an_override_is_unchanged() -> None:
    assert apply(data_clean, {"data:count": "off", "gone:away": "off"}) is data_clean
    assert apply_all(TASKS, {}) == TASKS
    assert texts(apply_all(TASKS, {"data:clean": "@hourly"})["data:clean"]) == {"0": "0 * * * *"}


@pytest.mark.parametrize(
    ("key", "text", "problem"),
    [
        ("data:cleen", "off", "data:cleen: no task with a schedule; there are data:clean, data:count$"),
        ("data:copy", "@daily", "data:copy: no task with a schedule"),
        ("data", "off", "data: no task with a schedule"),
        ("data:count:monthly", "off", "no such schedule; there are data:count:0, data:count:weekly$"),
        ("data:count", "@daily", "several schedules; give each its times, by data:count:0, data:count:weekly$"),
        ("data:clean", "every hour", r"data:clean: schedule 'every hour': 2 fields where .*; or 'off'$"),
        ("data:clean", "61 * * * *", "data:clean: schedule .*minute '61'"),
        ("data:clean", "", "data:clean: schedule ''"),
    ],
)
def test_an_override_without_a_schedule_or_valid_cron_is_refused_by_its_key(key: str, text: str, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        apply_all(TASKS, {key: text})


def test_discovery_applies_the_overrides_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_SCHEDULES", '{"tenant:cleanup": "@hourly", "system:health_check": "off"}')
    assert texts(load("tenant:cleanup")) == texts(discover()["tenant:cleanup"]) == {"0": "0 * * * *"}
    assert load("system:health_check").schedules == discover()["system:health_check"].schedules == ()


def test_discovery_without_overrides_returns_the_declared_schedules(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_SCHEDULES", '{"tenant:cleanup": "off"}')
    monkeypatch.setenv("JOBLANE_SWEEP_MINUTES", "5")
    assert load("tenant:cleanup", times={}).schedules
    assert discover(times={})["tenant:cleanup"].schedules
    assert texts(load("jobs:sweep", times={})) == {"0": "0 */6 * * *"}


@pytest.mark.parametrize(("minutes", "text"), [("", "0 */6 * * *"), ("5", "*/5 * * * *"), ("1440", "0 0 * * *")])
def test_the_sweep_has_the_interval_of_its_own_variable(
    monkeypatch: pytest.MonkeyPatch, minutes: str, text: str
) -> None:
    monkeypatch.setenv("JOBLANE_SWEEP_MINUTES", minutes)
    assert texts(load("jobs:sweep")) == texts(discover()["jobs:sweep"]) == {"0": text}


@pytest.mark.parametrize("minutes", ["7", "90", "2880"])
def test_an_interval_that_no_schedule_can_have_is_refused_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, minutes: str
) -> None:
    monkeypatch.setenv("JOBLANE_SWEEP_MINUTES", minutes)
    with pytest.raises(DeclarationError, match=r"^JOBLANE_SWEEP_MINUTES: every"):
        of_environment()


def test_the_interval_of_the_sweep_has_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_SCHEDULES", '{"jobs:sweep": "@hourly"}')
    with pytest.raises(DeclarationError, match="JOBLANE_SCHEDULES: jobs:sweep: set its interval by JOBLANE_SWEEP_MIN"):
        of_environment()


@pytest.mark.parametrize(
    ("text", "minutes"), [("1 minute", 1), ("5 minutes", 5), ("60 minutes", 60), ("6 hours", 360), ("24 hours", 1440)]
)
def test_an_interval_is_written_in_minutes_or_hours(text: str, minutes: int) -> None:
    assert minutes_of(text) == minutes


@pytest.mark.parametrize(
    "text",
    ["", "6", "6h", "0 minutes", "7 minutes", "90 minutes", "5 hours", "48 hours", "1 day", "@hourly", "5  minutes"],
)
def test_an_interval_that_no_schedule_can_have_is_refused(text: str) -> None:
    with pytest.raises(DeclarationError, match=r'a string such as "6 hours" or "5 minutes" is required: 1, 2, .* 24 h'):
        minutes_of(text)


@pytest.mark.parametrize("text", ["@hourly", "[]", '{"tenant:cleanup": 5}', "{"])
def test_an_unreadable_environment_variable_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("JOBLANE_SCHEDULES", text)
    with pytest.raises(DeclarationError, match="JOBLANE_SCHEDULES: a JSON object of strings is required"):
        of_environment()
