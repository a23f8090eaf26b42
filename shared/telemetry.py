"""Logs and metrics by Powertools, made on first use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aws_lambda_powertools import Logger, Metrics

NAMESPACE = "Joblane"


@cache
def logger() -> Logger:
    """The process's structured logger, one JSON line per record. ``POWERTOOLS_LOG_LEVEL`` sets the level."""
    from aws_lambda_powertools import Logger

    return Logger(service=_service())


@cache
def metrics() -> Metrics:
    """The process's CloudWatch metrics in EMF, written once per invocation."""
    from aws_lambda_powertools import Metrics

    return Metrics(namespace=NAMESPACE, service=_service())


def count(to: Metrics, counts: Mapping[str, int], milliseconds: Mapping[str, int]) -> None:
    """Add counts and durations by name to what the invocation will write."""
    for name, value in counts.items():
        to.add_metric(name, "Count", value)
    for name, value in milliseconds.items():
        to.add_metric(name, "Milliseconds", value)


def flush(of: Metrics, **dimensions: str) -> None:
    """Write what was counted, as one EMF line under ``dimensions``; nothing where nothing was."""
    if of.provider.metric_set:
        for name, value in dimensions.items():
            of.add_dimension(name, value)
        of.flush_metrics()


def _service() -> str:
    return os.environ.get("JOBLANE_PREFIX", "").strip() or "jobs"
