"""What is wrong is seen: in the result, in a metric, and in an error line."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from functions.system_health_check.handler import SystemHealthCheck, system_health_check
from tests.integration.saas.conftest import Platform
from tests.logs import lines
from tests.unit.saas.servers import HttpServer, status

DOORS = ("jobs-critical", "jobs-default", "jobs-low")


@pytest.fixture
def doors(platform: Platform) -> Platform:
    for name in DOORS:
        platform.world.sqs.client.create_queue(QueueName=name)
    return platform


def check(platform: Platform) -> dict[str, Any]:
    row = platform.do(system_health_check, SystemHealthCheck())
    assert row["state"] == "completed", row["error_message"]
    return row["result"]  # type: ignore[no-any-return]


def test_where_all_answer_it_is_healthy(
    doors: Platform, services: list[HttpServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)
    services[1].answers = [status(404)]  # an answer too
    with lines() as logged:
        assert check(doors) == {"healthy": True, "checks": 8, "problems": {}}
    assert [line["level"] for line in logged.fields if line["message"] == "healthy"] == ["INFO"]
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"HealthCheck' in line]
    assert {line["check"] for line in metrics} == {
        "all",
        "database",
        "sweep",
        *(f"queue {name}" for name in DOORS),
        *(f"service {server.url}" for server in services),
    }
    assert all(line["HealthCheckPassed"] == [1.0] or line["HealthCheckPassed"] == 1 for line in metrics)
    assert [request.path for server in services for request in server.requests] == ["/", "/", "/"]


def test_what_is_wrong_is_named_and_counted(
    doors: Platform, services: list[HttpServer], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a service that fails, one that is not there, a queue that is gone, and a sweep that does not come
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)
    services[0].answers = [status(503)]
    gone = "http://127.0.0.1:9"
    monkeypatch.setenv("TENANT_INIT_SERVICES", f"{services[0].url},{gone}")
    doors.world.sqs.client.delete_queue(QueueUrl=doors.world.sqs.url("jobs-low"))
    doors.world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, sweep_at)"
        " values ('left', 'a:b', 'low', 'pending', '', 1, 60, now() - interval '21 minutes')"
    )
    # when it is checked
    with lines() as logged:
        result = check(doors)
    # then each is told
    assert result["healthy"] is False
    assert set(result["problems"]) == {f"service {services[0].url}", f"service {gone}", "queue jobs-low", "sweep"}
    assert result["problems"][f"service {services[0].url}"].endswith("answered with status 503")
    assert result["problems"]["sweep"].startswith("a task has waited for it for 12")
    (line,) = (line for line in logged.fields if line["message"] == "unhealthy")
    assert (line["level"], line["problems"]) == ("ERROR", result["problems"])
    metrics = [json.loads(line) for line in capsys.readouterr().out.splitlines() if '"HealthCheck' in line]
    assert {item["check"] for item in metrics if "HealthCheckFailed" in item} == {"all", *result["problems"]}


def test_without_services_database_and_queues_are_asked(doors: Platform) -> None:
    assert check(doors) == {"healthy": True, "checks": 5, "problems": {}}


COMING = datetime.now(UTC) + timedelta(days=2)
YEARLY = f"0 0 {COMING.day} {COMING.month} *"
"""It came last a year ago, or some years where that is a 29th of February."""


@pytest.mark.parametrize(
    ("times", "waits_hours", "problem"),
    [("*/5 * * * *", 0.5, True), (YEARLY, 24, False), (YEARLY, 24 * 3000, True), ("off", 24, False)],
)
def test_a_sweep_is_late_by_the_times_that_its_stage_gives_it(
    doors: Platform, monkeypatch: pytest.MonkeyPatch, times: str, waits_hours: float, problem: bool
) -> None:
    monkeypatch.setenv("JOBLANE_SCHEDULES", json.dumps({"jobs:sweep": times}))
    doors.world.run(
        "insert into joblane.tasks (id, type, queue, state, payload_digest, max_attempts, retention_seconds, sweep_at)"
        f" values ('left', 'a:b', 'low', 'pending', '', 1, 60, now() - interval '{waits_hours} hours')"
    )
    assert ("sweep" in check(doors)["problems"]) is problem


def test_services_that_are_not_set_right_are_a_problem(doors: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENANT_INIT_SERVICES", "ftp://example.org")
    assert list(check(doors)["problems"]) == ["services"]


def test_many_silent_services_take_no_longer_than_one(doors: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    from saas import health

    monkeypatch.setattr(health, "PROBE_SECONDS", 0.5)
    silent = HttpServer([lambda handler: time.sleep(3)])
    with silent.running():
        monkeypatch.setenv("TENANT_INIT_SERVICES", ",".join(f"{silent.url}/{number}" for number in range(10)))
        result = check(doors)
    assert len(result["problems"]) == 10
