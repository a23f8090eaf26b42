"""Metrics are written as log lines that CloudWatch can read."""

from __future__ import annotations

import re
from typing import Any

import pytest

from functions.system_health_check import handler as health_check
from joblane.telemetry import Tally
from saas.health import Check
from tests import emf
from tests.pages import ROOT

VALID: dict[str, Any] = {
    "_aws": {
        "Timestamp": 0,
        "CloudWatchMetrics": [
            {
                "Namespace": "Joblane/jobs",
                "Dimensions": [["task_type", "queue"]],
                "Metrics": [{"Name": "Started", "Unit": "Count"}, {"Name": "WaitMs", "Unit": "Milliseconds"}],
            }
        ],
    },
    "task_type": "data:export",
    "queue": "low",
    "Started": 2,
    "WaitMs": [3, 4],
}


@pytest.fixture(autouse=True)
def prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBLANE_PREFIX", "jobs-dev")
    monkeypatch.delenv("POWERTOOLS_METRICS_DISABLED", raising=False)


def written(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return emf.documents(capsys.readouterr().out)


def test_counts_are_written_as_one_line_in_the_namespace_of_the_stage(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.count("Started")
    tally.count("Started")
    tally.time("WaitMs", 5)
    tally.flush(task_type="data:export", queue="low")
    (line,) = written(capsys)
    assert (line["Started"], line["WaitMs"]) == (2, [5])
    assert line["_aws"]["CloudWatchMetrics"][0]["Namespace"] == "Joblane/jobs-dev"
    tally.flush(task_type="data:export", queue="low")
    assert written(capsys) == []


def test_a_count_of_the_whole_stage_is_also_written_without_dimensions(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.count("Started")
    tally.count("Archived")
    tally.flush("Archived", task_type="data:export", queue="low")
    (line,) = written(capsys)
    directives = [(entry["Dimensions"], entry["Metrics"]) for entry in line["_aws"]["CloudWatchMetrics"]]
    started, archived = ({"Name": name, "Unit": "Count"} for name in ("Started", "Archived"))
    assert directives == [([["task_type", "queue"]], [started, archived]), ([[]], [archived])]
    # a line without that count has no second part, which would cost another metric
    tally.count("Started")
    tally.flush("Archived", task_type="data:export", queue="low")
    (line,) = written(capsys)
    assert len(line["_aws"]["CloudWatchMetrics"]) == 1


def test_a_count_of_zero_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    tally = Tally()
    tally.count("Overdue", 0)
    tally.flush(task_type="jobs:sweep")
    (line,) = written(capsys)
    assert line["Overdue"] == 0


@pytest.mark.parametrize(("values", "lines"), [(100, [100]), (101, [100, 1]), (250, [100, 100, 50])])
def test_more_than_100_values_are_split_over_lines_without_loss_or_repetition(
    values: int, lines: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    tally = Tally()
    tally.count("Started", values)
    tally.time("DurationMs", 7)
    for number in range(values):
        tally.time("WaitMs", number)
    tally.flush(task_type="data:export", queue="low")
    found = written(capsys)
    assert [len(line["WaitMs"]) for line in found] == lines
    assert [value for line in found for value in line["WaitMs"]] == list(range(values))
    assert [line.get("Started") for line in found] == [values] + [None] * (len(lines) - 1)
    assert [line.get("DurationMs") for line in found] == [[7]] + [None] * (len(lines) - 1)


def test_metrics_can_be_switched_off(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("POWERTOOLS_METRICS_DISABLED", "true")
    tally = Tally()
    tally.count("Started")
    tally.flush(check="all")
    assert capsys.readouterr().out == ""


def test_a_health_check_writes_lines_that_cloudwatch_can_read(capsys: pytest.CaptureFixture[str]) -> None:
    health_check._measure([Check("queue jobs-low", 3, None), Check("service https://a.example.com", 9, "Timeout")])
    found = {line["check"]: line for line in written(capsys)}
    assert (
        found["queue jobs-low"]["HealthCheckPassed"] == found["service https://a.example.com"]["HealthCheckFailed"] == 1
    )
    assert found[health_check.WHOLE]["HealthCheckFailed"] == 1


def test_all_modules_that_write_metrics_have_tests_of_their_lines() -> None:
    """The others are in ``integration/sweep/test_alarm_metrics.py`` and ``unit/worker/test_failing_sweep.py``."""
    modules = [path for folder in ("shared", "functions") for path in (ROOT / folder).rglob("*.py")]
    writes = ("Tally(", "telemetry.write_metrics(")
    writers = {str(path.relative_to(ROOT)) for path in modules if any(each in path.read_text() for each in writes)}
    assert writers == {
        "shared/joblane/functions/jobs_sweep/handler.py",
        "functions/system_health_check/handler.py",
        "shared/joblane/worker/run_log.py",
        "shared/joblane/worker/sweep_worker.py",
    }


# --- The check itself ------------------------------------------------------------------------------------------------


def altered(path: str, value: Any) -> dict[str, Any]:
    """Return :data:`VALID` with the current time and one value replaced. None: the value is removed."""
    import copy
    import time

    document = copy.deepcopy(VALID)
    document["_aws"]["Timestamp"] = int(time.time() * 1000)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split("/")]
    node: Any = document
    for part in parents:
        node = node[part]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return document


DIRECTIVE = "_aws/CloudWatchMetrics/0"


def test_a_valid_line_has_no_problem() -> None:
    assert list(emf.problems(altered("Started", 2))) == []


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("_aws/Timestamp", None, "'Timestamp' is a required property"),
        ("_aws/Timestamp", 1795600504, "no time of these days in milliseconds"),
        (f"{DIRECTIVE}/Namespace", "", "expected minimum length: 1"),
        (f"{DIRECTIVE}/Namespace", "AWS/Jobs", "Namespace"),
        (f"{DIRECTIVE}/Namespace", "jobs dev", "Namespace"),
        (f"{DIRECTIVE}/Dimensions", [], "expected minimum item count: 1"),
        (f"{DIRECTIVE}/Dimensions", [["tenant"]], "dimension 'tenant' may have any number of values"),
        (f"{DIRECTIVE}/Dimensions", [[f"d{n}" for n in range(31)]], "expected maximum item count: 30"),
        (f"{DIRECTIVE}/Metrics", [{"Name": "x"}] * 101, "expected maximum item count: 100"),
        (f"{DIRECTIVE}/Metrics/0/Unit", "Hours", "does not match"),
        (f"{DIRECTIVE}/Metrics/0/Value", 3, "Additional properties are not allowed"),
        ("Started", None, "Started is no number"),
        ("Started", "2", "Started is no number"),
        ("WaitMs", [1] * 101, "WaitMs has 101 values"),
        ("WaitMs", [], "WaitMs has 0 values"),
        ("queue", None, "'queue' has no good value"),
        ("queue", "", "'queue' has no good value"),
        ("queue", 3, "'queue' has no good value"),
    ],
)
def test_a_line_that_cloudwatch_would_ignore_is_found(path: str, value: Any, problem: str) -> None:
    found = list(emf.problems(altered(path, value)))
    assert any(re.search(problem, text) for text in found), found
