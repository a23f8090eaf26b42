"""The health check reports problems in its result, in metrics, and in an error line."""

from __future__ import annotations

import json
import time
from datetime import timedelta
from typing import Any

import pytest

from functions.system_health_check.handler import SystemHealthCheck, system_health_check
from joblane.tasks.schedule import Schedule
from tests.integration.saas.conftest import Platform
from tests.logs import lines
from tests.unit.saas.servers import HttpServer, status

SWEPT = (
    "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds,"
    " finished_at, expire_at)"
    " select 'swept', 'jobs:sweep', 'low', 'completed', '', 1, 60, at, at + interval '1 day'"
    " from (select now() - interval '{minutes} minutes' as at) as sweep"
)
"""Inserts the row of a sweep that completed some minutes ago."""
FRONT_DOORS = ("jobs-critical", "jobs-default", "jobs-low")


@pytest.fixture
def front_doors(platform: Platform) -> Platform:
    for name in FRONT_DOORS:
        platform.world.sqs.client.create_queue(QueueName=name)
    return platform


def leave(platform: Platform, age: str) -> None:
    """Write a task that has waited for the sweep for a time."""
    platform.world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, sweep_at)"
        " values ('left', 'a:b', 'low', 'pending', '', 1, 60, now() - $1::text::interval)",
        age,
    )


def check(platform: Platform) -> dict[str, Any]:
    row = platform.do(system_health_check, SystemHealthCheck())
    assert row["state"] == "completed", row["error_message"]
    return row["result"]  # type: ignore[no-any-return]


def test_if_all_answer_the_platform_is_healthy(
    front_doors: Platform,
    services: list[HttpServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)
    services[1].answers = [status(404)]  # an answer too
    with lines() as logged:
        assert check(front_doors) == {"healthy": True, "checks": 8, "problems": {}}
    assert [line["level"] for line in logged.fields if line["message"] == "healthy"] == ["INFO"]
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"HealthCheck' in line]
    assert {line["check"] for line in metrics} == {
        "all",
        "database",
        "sweep",
        *(f"queue {name}" for name in FRONT_DOORS),
        *(f"service {server.url}" for server in services),
    }
    assert all(line["HealthCheckPassed"] == [1.0] or line["HealthCheckPassed"] == 1 for line in metrics)
    assert [request.path for server in services for request in server.requests] == ["/", "/", "/"]


def test_problems_are_named_and_counted(
    front_doors: Platform,
    services: list[HttpServer],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # given a failing service, an unreachable service, a missing queue, and a sweep that does not run
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)
    services[0].answers = [status(503)]
    gone = "http://127.0.0.1:9"
    monkeypatch.setenv("TENANT_INIT_SERVICES", f"{services[0].url},{gone}")
    front_doors.world.sqs.client.delete_queue(QueueUrl=front_doors.world.sqs.url("jobs-low"))
    leave(front_doors, "21 hours")
    # when the check runs
    with lines() as logged:
        result = check(front_doors)
    # then each problem is reported
    assert result["healthy"] is False
    assert set(result["problems"]) == {f"service {services[0].url}", f"service {gone}", "queue jobs-low", "sweep"}
    assert result["problems"][f"service {services[0].url}"].endswith("answered with status 503")
    assert result["problems"]["sweep"].startswith("a task has waited for the sweep for 756")
    (line,) = (line for line in logged.fields if line["message"] == "unhealthy")
    assert (line["level"], line["problems"]) == ("ERROR", result["problems"])
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"HealthCheck' in line]
    assert {item["check"] for item in metrics if "HealthCheckFailed" in item} == {"all", *result["problems"]}


def test_without_services_only_database_queues_and_sweep_are_checked(front_doors: Platform) -> None:
    assert check(front_doors) == {"healthy": True, "checks": 5, "problems": {}}


@pytest.mark.parametrize(
    ("sweep_minutes", "waits_hours", "problem"), [("5", 0.5, True), ("1440", 0.1, False), ("1440", 50, True)]
)
def test_a_sweep_is_late_by_the_schedule_of_its_stage(
    front_doors: Platform, monkeypatch: pytest.MonkeyPatch, sweep_minutes: str, waits_hours: float, problem: bool
) -> None:
    monkeypatch.setenv("JOBLANE_SWEEP_MINUTES", sweep_minutes)
    leave(front_doors, f"{waits_hours} hours")
    assert ("sweep" in check(front_doors)["problems"]) is problem


@pytest.mark.parametrize(("planned", "swept", "problem"), [(-20, 30, True), (-20, 18, False), (-10, 30, False)])
def test_a_sweep_is_late_by_its_own_plan(
    front_doors: Platform, monkeypatch: pytest.MonkeyPatch, planned: int, swept: int, problem: bool
) -> None:
    # given a task that is due, the time of the planned sweep, and the minutes since the last one
    monkeypatch.setattr(Schedule, "previous", lambda self, moment: moment - timedelta(hours=24))
    front_doors.world.run(
        f"insert into joblane.stage (prefix, planned_sweep_at) values ('jobs', now() + interval '{planned} minutes')"
        " on conflict (only_row) do update set planned_sweep_at = excluded.planned_sweep_at"
    )
    leave(front_doors, "1 hour")
    front_doors.world.run(SWEPT.format(minutes=swept))
    # then
    assert ("sweep" in check(front_doors)["problems"]) is problem


@pytest.mark.parametrize(("swept_minutes", "problem"), [(1, False), (13 * 60, True)])
def test_a_task_that_stays_overdue_is_no_problem_while_sweeps_complete(
    front_doors: Platform, swept_minutes: int, problem: bool
) -> None:
    # given a task that the sweep does not change, such as a paused one, and the last sweep
    leave(front_doors, "13 hours")
    front_doors.world.run(SWEPT.format(minutes=swept_minutes))
    # then
    assert ("sweep" in check(front_doors)["problems"]) is problem


def test_a_wrong_setting_of_services_is_a_problem(front_doors: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT_INIT_SERVICES", "ftp://example.org")
    assert list(check(front_doors)["problems"]) == ["services"]


def test_many_silent_services_take_as_long_as_one(front_doors: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from saas import health

    monkeypatch.setattr(health, "PROBE_SECONDS", 0.5)
    silent = HttpServer([lambda handler: time.sleep(3)])
    with silent.running():
        monkeypatch.setenv("TENANT_INIT_SERVICES", ",".join(f"{silent.url}/{number}" for number in range(10)))
        result = check(front_doors)
    assert len(result["problems"]) == 10
