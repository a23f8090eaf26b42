"""The lines that every invocation writes have the bytes that Powertools writes."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter
from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

from joblane import telemetry
from joblane.telemetry import TRACE_VARIABLE, FrequentFormat, FrequentLine

FIELDS = {"task_type": "data:export", "queue": "low", "outcome": "completed"}
TRACES = ("Root=1-aaa;Parent=b;Sampled=1", None, "Root=1-ccc")


class Pairs(logging.Handler):
    """Formats each record with Joblane's formatter and with Powertools' own."""

    def __init__(self) -> None:
        super().__init__()
        self.formatters = (
            telemetry.formatter("jobs"),
            LambdaPowertoolsFormatter(utc=True, use_rfc3339=True, service="jobs"),
        )
        self.pairs: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        ours, powertools = self.formatters
        self.pairs.append((ours.format(record), powertools.format(record)))

    def append_keys(self, **keys: Any) -> None:
        for formatter in self.formatters:
            formatter.append_keys(**keys)


@pytest.fixture
def pairs() -> Iterator[Pairs]:
    logger, handler = logging.getLogger("test-frequent-line"), Pairs()
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    handler.formatters[0].thread_safe_clear_keys()


@pytest.fixture
def line(pairs: Pairs) -> FrequentLine:
    return FrequentLine(logging.getLogger("test-frequent-line"), "tasks completed")


def write(line: FrequentLine, number: int) -> None:
    task = {"task_id": f'ä"\\{number}', "attempt": number, "ms": 0.5}
    line.write(FIELDS | {"tasks": [task] * number})


def test_each_line_has_the_bytes_of_powertools(
    line: FrequentLine, pairs: Pairs, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, trace in enumerate(TRACES):
        monkeypatch.setenv(TRACE_VARIABLE, trace) if trace else monkeypatch.delenv(TRACE_VARIABLE, raising=False)
        write(line, number)
    assert [ours for ours, _ in pairs.pairs] == [powertools for _, powertools in pairs.pairs]
    assert [json.loads(ours).get("xray_trace_id") for ours, _ in pairs.pairs] == ["1-aaa", None, "1-ccc"]
    assert {tuple(json.loads(ours))[:6] for ours, _ in pairs.pairs} == {
        ("level", "location", "message", "timestamp", "service", "task_type")
    }
    assert all('"location":"write:' in ours for ours, _ in pairs.pairs)


@pytest.mark.parametrize(
    "keys", [{"team": "a"}, {"queue": "other"}, {"location": None}, {"level": "%(levelno)d"}, {"many": [1]}]
)
def test_keys_that_the_users_code_appends_are_on_the_lines(line: FrequentLine, pairs: Pairs, keys: Any) -> None:
    write(line, 1)
    pairs.append_keys(**keys)
    write(line, 2)
    for value in keys.values():
        if isinstance(value, list):
            value.append(2)
    write(line, 3)
    pairs.formatters[0].thread_safe_append_keys(tenant="acme")  # Powertools has one store for all formatters
    write(line, 4)
    pairs.formatters[0].thread_safe_remove_keys(["tenant"])
    write(line, 5)
    for formatter in pairs.formatters:
        formatter.remove_keys(list(keys))
    write(line, 6)
    assert [ours for ours, _ in pairs.pairs] == [powertools for _, powertools in pairs.pairs]


def test_two_lines_of_one_logger_keep_their_messages(line: FrequentLine, pairs: Pairs) -> None:
    other = FrequentLine(logging.getLogger("test-frequent-line"), "another")
    for number in range(2):
        write(line, number)
        write(other, number)
    assert [ours for ours, _ in pairs.pairs] == [powertools for _, powertools in pairs.pairs]


def test_the_level_of_the_users_code_applies(line: FrequentLine, pairs: Pairs) -> None:
    logging.getLogger("test-frequent-line").setLevel(logging.WARNING)
    write(line, 1)
    assert pairs.pairs == []


def test_the_logger_of_the_library_has_this_formatter() -> None:
    assert isinstance(telemetry.logger().registered_formatter, FrequentFormat)


@pytest.mark.parametrize("names", [("Started",), ("Started", "Archived"), ("Archived",)])
def test_metrics_have_the_bytes_of_powertools(
    names: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOBLANE_PREFIX", "jobs-dev")
    dimensions = {"task_type": "data:export", "queue": "low"}
    for value in (1, 2):  # the second line repeats what the first one prepared
        tally = telemetry.Tally()
        for name in names:
            tally.count(name, value)
        tally.time("WaitMs", value)
        tally.flush("Archived", **dimensions)
        line = capsys.readouterr().out
        metrics: dict[str, Any] = {name: {"Unit": "Count", "Value": value} for name in names}
        metrics["WaitMs"] = {"Unit": "Milliseconds", "Value": [value]}
        provider = AmazonCloudWatchEMFProvider(namespace="Joblane/jobs-dev")
        wanted: Any = provider.serialize_metric_set(metrics, dimensions, {})
        wanted["_aws"]["Timestamp"] = json.loads(line)["_aws"]["Timestamp"]
        directives = wanted["_aws"]["CloudWatchMetrics"]
        if "Archived" in names:
            whole = [{"Name": "Archived", "Unit": "Count"}]
            directives.append(directives[0] | {"Dimensions": [[]], "Metrics": whole})
        assert line == json.dumps(wanted, separators=(",", ":")) + "\n"
