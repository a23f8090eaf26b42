"""The check of Lambda's throttles: which function was throttled, how often, and what to raise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.inspector.scope import Scope
from joblane.inspector.sentences.counts import first_of
from joblane.inspector.stage.aws import client
from joblane.inspector.views import Check, Grade
from joblane.names import function_name

HOURS = 3
"""As long as a message withstands throttles, see the page *Size a stage*."""
NEAR_SHARE = 0.9
"""An account whose functions used this share of its limit at once is at the limit: the metric has a value a minute."""
OTHERS = ("router", "control", "api", "page")
"""Functions of a stage that run no task type, without the prefix."""
MOST_METRICS = 500
"""Metrics of one call. Source: GetMetricData, CloudWatch API reference."""
SCALES = "Lambda adds 1,000 concurrent executions every 10 seconds for each function"
"""Source: Lambda, *Understanding Lambda function scaling*."""
MOST_FUNCTIONS = 5
"""Functions that a finding names."""
RAISE = "ask AWS for a higher limit (Service Quotas, Lambda, L-B99A9384), or lower `concurrency_budget`"


def throttles(scope: Scope) -> Iterator[Check]:
    """No function of the account was throttled. Only if one was, the functions of the stage are read, in one call."""
    with client("cloudwatch", scope.region) as aws:
        throttled, peak = _read(aws, [("Throttles", "Sum", None), ("ConcurrentExecutions", "Maximum", None)])
        if not throttled:
            yield Check(Grade.GOOD, "throttles", f"Lambda throttled nothing in the last {HOURS} hours")
            return
        names = [f"{scope.prefix}-{name}" for name in OTHERS]
        names += sorted({function_name(scope.prefix, scope.members(task)[0].type) for task in scope.tasks.values()})
        names = names[:MOST_METRICS]
        counts = dict(zip(names, _read(aws, [("Throttles", "Sum", name) for name in names]), strict=True))
    own = {name: count for name, count in counts.items() if count}
    with client("lambda", scope.region) as aws:
        limit = aws.get_account_settings()["AccountLimit"]["ConcurrentExecutions"]
        reserved = {name: _reserved(aws, name) for name in own}
    yield from found(own, throttled, round(peak), limit, reserved)


def found(
    own: Mapping[str, float], throttled: float, peak: int, limit: int, reserved: Mapping[str, int | None]
) -> Iterator[Check]:
    """Yield the findings, the account's first.

    ``own``: the throttled functions of the stage. ``throttled``: throttles of the account; ``peak``, ``limit``: its
    concurrent executions. ``reserved``: the concurrency that is reserved for a function; None: it has none.
    """
    account = f"the account used {peak:,} of its {limit:,} concurrent executions at once"
    shared = {name: count for name, count in own.items() if reserved[name] is None}
    if peak >= limit * NEAR_SHARE:
        of = f": {_counted(shared)}" if shared else "; none of this stage"
        text = f"{account}, so Lambda throttled {throttled:,.0f} invocations in {HOURS} hours{of}"
        yield Check(Grade.WARNING, "throttles", text, RAISE)
    elif shared:
        text = f"Lambda throttled {_counted(shared)} in {HOURS} hours, and {account}"
        do = f"after a sudden load, wait: {SCALES}. If it stays, {RAISE}"
        yield Check(Grade.WARNING, "throttles", text, do)
    for name, number in reserved.items():
        if number is not None:
            text = f"Lambda throttled it {own[name]:,.0f} times in {HOURS} hours: its reserved concurrency is {number}"
            do = (
                "with 0 it cannot start: remove the reserved concurrency in the console"
                if not number
                else "raise its `max_concurrency`"
            )
            yield Check(Grade.BAD if not number else Grade.WARNING, f"function {name}", text, f"{do}, and deploy")
    if not own and peak < limit * NEAR_SHARE:
        text = f"Lambda throttled {throttled:,.0f} invocations of other functions of the account in {HOURS} hours"
        yield Check(Grade.GOOD, "throttles", text)


def _counted(counts: Mapping[str, float]) -> str:
    worst = sorted(counts.items(), key=lambda item: -item[1])
    return first_of([f"{name} {count:,.0f} times" for name, count in worst], MOST_FUNCTIONS)


def _reserved(aws: Any, name: str) -> int | None:
    number: int | None = aws.get_function_concurrency(FunctionName=name).get("ReservedConcurrentExecutions")
    return number


def _read(aws: Any, metrics: Sequence[tuple[str, str, str | None]]) -> list[float]:
    """Return the sum, or the maximum, of each metric in the last hours; 0 without data. A function None: all of
    the account."""
    now = datetime.now(UTC)
    answer = aws.get_metric_data(
        StartTime=now - timedelta(hours=HOURS),
        EndTime=now,
        MetricDataQueries=[
            {
                "Id": f"m{number}",
                "MetricStat": {
                    "Metric": {
                        "Namespace": "AWS/Lambda",
                        "MetricName": metric,
                        "Dimensions": [{"Name": "FunctionName", "Value": name}] if name else [],
                    },
                    "Period": 300,
                    "Stat": statistic,
                },
            }
            for number, (metric, statistic, name) in enumerate(metrics)
        ],
    )
    values: Mapping[str, Sequence[float]] = {each["Id"]: each["Values"] for each in answer["MetricDataResults"]}
    made = {"Sum": sum, "Maximum": lambda these: max(these, default=0)}
    return [float(made[each[1]](values.get(f"m{n}", ()))) for n, each in enumerate(metrics)]
