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

NAMESPACE = "Joblane"


@cache
def logger() -> Logger:
    """The process's structured logger, one JSON line per record. ``POWERTOOLS_LOG_LEVEL`` sets the level."""
    from aws_lambda_powertools import Logger

    return Logger(service=_service(), use_rfc3339=True, utc=True)


class Tally:
    """What one invocation counts, written as one line of CloudWatch's embedded metric format.

    Powertools' provider writes the format; going through its ``add_metric`` for each value costs as much as the rest
    of a job. ``POWERTOOLS_METRICS_DISABLED=true`` silences it, as it does Powertools.
    """

    def __init__(self) -> None:
        self._counts: defaultdict[str, int] = defaultdict(int)
        self._times: defaultdict[str, list[int]] = defaultdict(list)

    def count(self, name: str) -> None:
        self._counts[name] += 1

    def time(self, name: str, milliseconds: int) -> None:
        self._times[name].append(milliseconds)

    def flush(self, **dimensions: str) -> None:
        """Write what was counted under ``dimensions``; nothing where nothing was."""
        metrics: dict[str, Any] = {name: {"Unit": "Count", "Value": value} for name, value in self._counts.items()}
        metrics |= {name: {"Unit": "Milliseconds", "Value": values} for name, values in self._times.items()}
        self._counts.clear()
        self._times.clear()
        if metrics and os.environ.get("POWERTOOLS_METRICS_DISABLED", "").lower() not in ("true", "1"):
            print(json.dumps(_emf().serialize_metric_set(metrics, dimensions, {}), separators=(",", ":")))  # noqa: T201


@cache
def _emf() -> AmazonCloudWatchEMFProvider:
    from aws_lambda_powertools.metrics.provider.cloudwatch_emf.cloudwatch import AmazonCloudWatchEMFProvider

    return AmazonCloudWatchEMFProvider(namespace=NAMESPACE)


def _service() -> str:
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"
