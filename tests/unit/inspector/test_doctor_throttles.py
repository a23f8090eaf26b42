"""The check of Lambda's throttles: the cause, and what to raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto import mock_aws

from joblane.inspector.scope import Scope
from joblane.inspector.stage.doctor import throttles as doctor_throttles
from joblane.inspector.views import Grade
from tests.samples import sample_batch, sample_one

ONE, BATCH = "jobs-sample-one", "jobs-sample-batch"


class Aws:
    """CloudWatch and Lambda. ``throttles``: by function; None: of the account. Each call is recorded."""

    def __init__(self, throttles: Mapping[str | None, float], peak: float, reserved: Mapping[str, int]) -> None:
        self.throttles, self.peak, self.reserved = throttles, peak, reserved
        self.calls: list[str] = []

    def get_metric_data(self, **given: Any) -> dict[str, Any]:
        self.calls.append(f"GetMetricData of {len(given['MetricDataQueries'])}")
        found = []
        for query in given["MetricDataQueries"]:
            metric = query["MetricStat"]["Metric"]
            name = next((each["Value"] for each in metric["Dimensions"]), None)
            value = self.throttles.get(name, 0) if metric["MetricName"] == "Throttles" else self.peak
            found.append({"Id": query["Id"], "Values": [value / 2, value / 2] if name else [value]})
        return {"MetricDataResults": found}

    def get_account_settings(self) -> dict[str, Any]:
        self.calls.append("GetAccountSettings")
        return {"AccountLimit": {"ConcurrentExecutions": 100}}

    def get_function_concurrency(self, FunctionName: str) -> dict[str, int]:  # noqa: N803 - boto3's name
        self.calls.append(f"GetFunctionConcurrency of {FunctionName}")
        found = self.reserved.get(FunctionName)
        return {} if found is None else {"ReservedConcurrentExecutions": found}


@pytest.mark.parametrize(
    ("throttles", "peak", "reserved", "expected"),
    [
        (
            {None: 9, ONE: 2, BATCH: 7},
            90,
            {},
            [
                (
                    Grade.WARNING,
                    "throttles",
                    (
                        "the account used 90 of its 100 concurrent executions at once, so Lambda throttled 9 "
                        f"invocations in 3 hours: {BATCH} 7 times, {ONE} 2 times"
                    ),
                    "ask AWS for a higher limit",
                )
            ],
        ),
        (
            {None: 9},
            100,
            {},
            [
                (
                    Grade.WARNING,
                    "throttles",
                    (
                        "the account used 100 of its 100 concurrent executions at once, so Lambda throttled 9 "
                        "invocations in 3 hours; none of this stage"
                    ),
                    "ask AWS for a higher limit",
                )
            ],
        ),
        (
            {None: 2, ONE: 2},
            40,
            {},
            [
                (
                    Grade.WARNING,
                    "throttles",
                    (
                        f"Lambda throttled {ONE} 2 times in 3 hours, and the account used 40 of its 100 concurrent "
                        "executions at once"
                    ),
                    "after a sudden load, wait: ",
                )
            ],
        ),
        (
            {None: 6, ONE: 6},
            40,
            {ONE: 3},
            [
                (
                    Grade.WARNING,
                    f"function {ONE}",
                    ("Lambda throttled it 6 times in 3 hours: its reserved concurrency is 3"),
                    "raise its `max_concurrency`, and deploy",
                )
            ],
        ),
        (
            {None: 6, "jobs-router": 6},
            0,
            {"jobs-router": 0},
            [
                (
                    Grade.BAD,
                    "function jobs-router",
                    ("Lambda throttled it 6 times in 3 hours: its reserved concurrency is 0"),
                    "with 0 it cannot start: remove",
                )
            ],
        ),
        (
            {None: 5},
            40,
            {},
            [
                (
                    Grade.GOOD,
                    "throttles",
                    ("Lambda throttled 5 invocations of other functions of the account in 3 hours"),
                    "",
                )
            ],
        ),
        ({}, 40, {}, [(Grade.GOOD, "throttles", "Lambda throttled nothing in the last 3 hours", "")]),
    ],
    ids=["account", "others-account", "burst", "reserved", "reserved-0", "others", "none"],
)
def test_it_says_which_function_was_throttled_how_often_and_what_to_raise(
    throttles: Mapping[str | None, float],
    peak: int,
    reserved: Mapping[str, int],
    expected: list[tuple[Grade, str, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # given
    aws = Aws(throttles, peak, reserved)

    @contextmanager
    def client(service: str, region: str) -> Iterator[Aws]:
        yield aws

    nothing: Any = None
    scope = Scope(nothing, nothing, "jobs", {each.type: each for each in (sample_one, sample_batch)}, "op")
    monkeypatch.setattr(doctor_throttles, "client", client)
    # when
    found = list(doctor_throttles.throttles(scope))
    # then
    assert [(check.grade, check.what, check.found) for check in found] == [each[:3] for each in expected]
    for check, (*_, do) in zip(found, expected, strict=True):
        assert check.do.startswith(do)
    # and a stage without throttles costs two metrics
    assert aws.calls[:1] == ["GetMetricData of 2"]
    assert aws.calls[1:2] == (["GetMetricData of 6"] if throttles else [])


def test_the_metrics_of_each_function_are_read_from_cloudwatch() -> None:
    """In moto. It adds up the metrics of all functions for the account, which has metrics of its own on AWS."""
    with mock_aws():
        aws, now = boto3.client("cloudwatch", region_name="us-east-1"), datetime.now(UTC)
        for name, value, minutes in ((ONE, 3, 100), (ONE, 2, 10), (BATCH, 4, 20), (BATCH, 8, 200), ("others", 1, 5)):
            datum = {
                "MetricName": "Throttles",
                "Dimensions": [{"Name": "FunctionName", "Value": name}],
                "Timestamp": now - timedelta(minutes=minutes),
                "Value": value,
            }
            aws.put_metric_data(Namespace="AWS/Lambda", MetricData=[datum])
        for value in (30, 40):
            datum = {"MetricName": "ConcurrentExecutions", "Timestamp": now - timedelta(minutes=9), "Value": value}
            aws.put_metric_data(Namespace="AWS/Lambda", MetricData=[datum])
        throttles = [("Throttles", "Sum", name) for name in (ONE, BATCH, "jobs-router")]
        found = doctor_throttles._read(aws, [("ConcurrentExecutions", "Maximum", None), *throttles])
    assert found == [40, 5, 4, 0]
