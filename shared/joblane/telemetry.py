"""Logs and metrics by Powertools, made on first use."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

MAX_VALUES = 100
"""Of one metric in one line. Source: CloudWatch, *Specification: Embedded metric format*, target members."""


def namespace(prefix: str) -> str:
    """Of a stage's metrics: stages in one account keep theirs apart."""
    return f"Joblane/{prefix}"


@cache
def logger() -> Logger:
    """The process's structured logger, one JSON line per record. ``POWERTOOLS_LOG_LEVEL`` sets the level."""
    from aws_lambda_powertools import Logger

    return Logger(service=_service(), use_rfc3339=True, utc=True)


class Tally:
    """What one invocation counts, written as a line of CloudWatch's embedded metric format, or as many as it takes.

    Powertools' provider writes the format; going through its ``add_metric`` for each value costs as much as the rest
    of a job. ``POWERTOOLS_METRICS_DISABLED=true`` silences it, as it does Powertools.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._times: dict[str, list[int]] = {}

    def count(self, name: str, number: int = 1) -> None:
        """``number`` 0 writes a metric that says so, which an alarm can tell from silence."""
        self._counts[name] += number

    def time(self, name: str, milliseconds: int) -> None:
        self._times.setdefault(name, []).append(milliseconds)

    def flush(self, **dimensions: str) -> None:
        """Write what was counted under ``dimensions``; nothing where nothing was."""
        metrics: dict[str, Any] = {name: {"Unit": "Count", "Value": value} for name, value in self._counts.items()}
        times, self._times = self._times, {}
        self._counts.clear()
        while metrics or times:
            metrics |= {name: {"Unit": "Milliseconds", "Value": some[:MAX_VALUES]} for name, some in times.items()}
            times = {name: some[MAX_VALUES:] for name, some in times.items() if len(some) > MAX_VALUES}
            if os.environ.get("POWERTOOLS_METRICS_DISABLED", "").lower() not in ("true", "1"):
                line = _emf(namespace(_service())).serialize_metric_set(metrics, dimensions, {})
                print(json.dumps(line, separators=(",", ":")))  # noqa: T201
            metrics = {}


@cache
def _emf(name: str) -> AmazonCloudWatchEMFProvider:
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    return AmazonCloudWatchEMFProvider(namespace=name)


def _service() -> str:
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"
