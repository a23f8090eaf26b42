"""An estimate of what a million jobs of a stage add to its costs, if they are spread over a month.

Each job is enqueued by a separate call to its lane, and delivered alone. Its own statements are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import timedelta

from joblane.cdk.costs import (
    HOURS,
    LEAST_AWAKE,
    RUN_LOG_KB,
    RUN_SECONDS,
    SWEEP_EXTRA,
    SWEEP_REQUESTS,
    TASK_METRICS,
    Line,
    Tasks,
    Templates,
    as_in_stage,
    busy_hours,
    compute_of,
    mapped_queues,
    pausing,
    sweeps,
    total,
)
from joblane.cdk.templates import of_type
from joblane.enqueue.wake import GRID_SECONDS
from joblane.names import SWEEP
from joblane.prices import MONTH
from joblane.settings import SHORT_MINUTES

JOBS = 1_000_000
JOB_SECONDS, JOB_MB, JOB_ROWS_KB = 0.1, 512, 2
"""Assumed: time and memory of a run, and the rows of a task, while its id is kept."""
COMMITS, JOB_WAL_KB, RETENTION_WAL_KB = 3, 1.7, 0.9
"""Enqueue, claim and finish with the log that they write, and the log of the retention. Measured:
``tests/bench/growth.md``."""
UNIT_KB = 4
"""Aurora counts writes of its log in these units. Source: Amazon Aurora FAQs, *Pricing*; AWS Database Blog, *Planning
I/O in Amazon Aurora*."""
JOB_WRITES = COMMITS * math.ceil(JOB_WAL_KB / COMMITS / UNIT_KB) + RETENTION_WAL_KB / UNIT_KB
"""A commit takes a unit at least. The retention removes many rows with a statement."""


def million(templates: Templates, tasks: Tasks) -> list[Line]:
    """Return what a million jobs of one type add to the lines of :func:`~joblane.cdk.costs.of_stage`."""
    return sorted(_lines(templates, tasks), key=lambda line: -line.dollars)


def _lines(templates: Templates, tasks: Tasks) -> Iterator[Line]:
    compute, pauses = compute_of(templates), pausing(templates, tasks)
    if pauses is not None:
        instances = sum(1 for template in templates for _ in of_type(template, "AWS::RDS::DBInstance"))
        asleep = HOURS - pauses[0].hours
        yield Line("Aurora, awake for the rest of the month", LEAST_AWAKE * instances * asleep, "Aurora ACU-hour")
    yield Line("Send, receive, delete", 3 * JOBS, "SQS request")
    yield Line("Metrics of their type", TASK_METRICS, "Metric")
    yield Line("Log", JOBS * RUN_LOG_KB / 1e6, "Log ingestion")
    yield Line("GB-seconds", JOBS * JOB_SECONDS * JOB_MB / 1024, compute)
    if any(True for template in templates for _ in of_type(template, "AWS::RDS::DBCluster")):
        yield Line("Aurora: writes", JOBS * JOB_WRITES, "Aurora I/O request")
        yield Line("Aurora: rows, while ids are kept", JOBS * JOB_ROWS_KB / 1e6, "Aurora GB-month")
    yield Line("Invocations", JOBS, "Lambda request")
    yield from _sweeps(as_in_stage(templates, tasks), compute)


def _sweeps(tasks: Tasks, compute: str) -> Iterator[Line]:
    """The sweeps that follow the jobs, beyond the sweeps of an idle stage."""
    idle = sweeps(tasks)
    if SWEEP not in tasks or len(idle) >= MONTH / timedelta(minutes=SHORT_MINUTES):
        return
    more = MONTH / timedelta(seconds=GRID_SECONDS) - len(idle)
    hours = HOURS - busy_hours(idle)
    yield Line("Sweeps: metrics in further hours", (TASK_METRICS + SWEEP_EXTRA.metrics) * hours / HOURS, "Metric")
    requests = 3 + SWEEP_REQUESTS * mapped_queues(tasks)
    yield Line(f"{more:,.0f} sweeps, one each four minutes: SQS requests", more * requests, "SQS request")
    yield Line("Sweeps: GB-seconds", more * RUN_SECONDS * tasks[SWEEP].memory_mb / 1024, compute)


def row(lines: list[Line]) -> str:
    """Return the lines as one sentence, with their sum."""
    parts = "; ".join(f"{line.what} ${line.dollars:,.2f}" for line in lines)
    return (
        f"A million jobs of {JOB_SECONDS:g} s and {JOB_MB} MB, spread over the month, add about ${total(lines):,.2f}: "
        f"{parts}."
    )
