"""An estimate of a stage's monthly costs without jobs, from prices, task declarations and the stage's templates.

Amounts that cannot be derived are in :data:`ASSUMED`. ``docs/explanation/costs.md`` is computed by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import Any

from joblane.cdk.errors import SynthError
from joblane.cdk.templates import Properties, Template, of_type
from joblane.declaration import Task
from joblane.prices import PRICES
from joblane.queues import SWEEP, Queue
from joblane.schedule import Schedule
from joblane.schedule_overrides import apply_all, with_sweep

MONTH = timedelta(days=30)
HOURS = MONTH / timedelta(hours=1)
START = datetime(2026, 11, 1, tzinfo=UTC)
"""A Sunday: the month then has five weekly ticks, the largest number."""
RECEIVES_PER_MAPPING = 5 * 3 * 60 * HOURS
"""Five pollers that each wait 20 s. Source: Lambda, *Configuring scaling behavior for SQS event source mappings*, and
``ReceiveMessage``, SQS API reference."""
TASK_METRICS = 4
"""Metrics of each task type that runs: Started, Completed, WaitMs, DurationMs."""
SWEEP_REQUESTS = 2
"""SQS requests of a sweep for each dead-letter queue: its URL and its size."""
LEAST_AWAKE = 0.5
"""Least ACUs of a cluster that may pause, while it runs. Source: Aurora, *Aurora Serverless v2 capacity*."""


@dataclass(frozen=True, slots=True)
class Extra:
    """Additional costs of the runs of a periodic task.

    ``metrics``: metrics of its own that each run writes. ``sqs_requests``: additional requests of each run.
    """

    metrics: int = 0
    sqs_requests: int = 0


SWEEP_EXTRA = Extra(metrics=3)  # Overdue, Runs, CostUsd; its requests follow from the queues
METADATA = "JoblaneCosts"
"""Key of a template's metadata that holds architecture, schedules and extras of the stage."""
Tasks = Mapping[str, Task[Any, Any]]
Extras = Mapping[str, Extra]
Templates = Iterable[Template]


@dataclass(frozen=True, slots=True)
class Amount:
    """An assumed number, its unit, and the reason."""

    number: float
    unit: str
    why: str


ASSUMED: Mapping[str, Amount] = {
    "Seconds of a periodic run": Amount(1, "second", "start-up included; it mostly waits for the database"),
    "KB of log of a run": Amount(1.5, "KB", "three lines of Lambda, one line of the library, and the metrics"),
    "Seconds of a job": Amount(0.1, "seconds", "replace this value by the duration of your own handlers"),
    "MB of a job's function": Amount(512, "MB", "the default of `memory_mb`"),
    "I/O requests of a job": Amount(
        15, "requests", "three small writes and their indexes, counted in units of 4 KB; not measured"
    ),
    "KB of a job's rows": Amount(2, "KB", "a task with a payload of a few hundred bytes, and one run"),
    "KB of a job to and from the database": Amount(
        10, "KB", "claim, finish and payload with TLS, on an open connection; not measured"
    ),
    "KB of a job through the NAT": Amount(8, "KB", "three requests to SQS with TLS, on open connections"),
    "Seconds of a refresh of the page": Amount(0.2, "seconds", "in each of its two functions; not measured on AWS"),
    "Hours a day for which a pausing cluster is awake": Amount(8, "hours", "a working day; not measured"),
}


def assumed(name: str) -> float:
    return ASSUMED[name].number


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the estimate: ``amount`` times ``price``, which is a name in :data:`~joblane.prices.PRICES`."""

    what: str
    amount: float
    price: str

    @property
    def dollars(self) -> float:
        return self.amount * PRICES[self.price].each


# --- Counted from the declarations ---------------------------------------------------------------------------------


def mapped_queues(tasks: Tasks) -> int:
    """Return the number of lanes and front doors. A Lambda function polls each of them."""
    return sum(len(task.types) * len(task.lanes) for task in tasks.values()) + len(Queue)


def ticks(task: Task[Any, Any]) -> int:
    """Return the ticks of all schedules of ``task`` in a month."""
    return sum(len(times(schedule)) for schedule in task.schedules)


def busy_hours(task: Task[Any, Any]) -> int:
    """Return the hours of a month with a tick: a metric costs for each hour in which it is written."""
    moments = [moment for schedule in task.schedules for moment in times(schedule)]
    return len({moment.replace(minute=0, second=0) for moment in moments})


@cache
def times(schedule: Schedule) -> tuple[datetime, ...]:
    """Return the ticks of ``schedule`` in the month from :data:`START`: 43,200 if it fires each minute."""
    end = START + MONTH
    return tuple(takewhile(lambda moment: moment < end, schedule.after(START - timedelta(seconds=1))))


# --- The lines -----------------------------------------------------------------------------------------------------


def polling(queues: int) -> Line:
    return Line(f"Polling {queues} queues", queues * RECEIVES_PER_MAPPING, "SQS request")


def periodic(tasks: Tasks, extras: Extras, compute: str = "Lambda GB-second") -> list[Line]:
    """Return the lines of the periodic tasks. ``extras``: by type. ``compute``: price name of the architecture."""
    extras = {SWEEP: SWEEP_EXTRA, **extras}
    ran = sum(ticks(task) for task in tasks.values())
    sweeps = ticks(tasks[SWEEP]) if SWEEP in tasks else 0
    metric_months = sum(
        (TASK_METRICS + extras.get(task.type, Extra()).metrics) * busy_hours(task) / HOURS for task in tasks.values()
    )
    types = sum(bool(task.schedules) for task in tasks.values())
    seconds = sum(ticks(task) * task.memory_mb / 1024 for task in tasks.values()) * assumed("Seconds of a periodic run")
    return [
        Line(f"Metrics of {types} periodic tasks", metric_months, "Metric"),
        Line(f"{ran:,} ticks: Scheduler", ran, "Schedule invocation"),
        Line(f"{ran:,} ticks: send, receive, delete", 3 * ran, "SQS request"),
        *(
            Line(f"{ticks(tasks[type_]):,} runs of {type_}: its own SQS requests", requests, "SQS request")
            for type_, extra in extras.items()
            if type_ in tasks and (requests := extra.sqs_requests * ticks(tasks[type_]))
        ),
        Line(
            f"{sweeps:,} sweeps: reading the sizes of the dead-letter queues",
            SWEEP_REQUESTS * mapped_queues(tasks) * sweeps,
            "SQS request",
        ),
        Line(f"{ran:,} ticks: invocations", ran, "Lambda request"),
        Line(f"{ran:,} ticks: GB-seconds", seconds, compute),
        Line(f"{ran:,} ticks: log", ran * assumed("KB of log of a run") / 1e6, "Log ingestion"),
    ]


def smallest(tasks: Tasks, extras: Extras) -> list[Line]:
    """Return the lines of the smallest stage: no network, no API, and an existing database with its secret."""
    return [polling(mapped_queues(tasks)), Line("The secret of the database", 1, "Secret"), *periodic(tasks, extras)]


def fixed(templates: Templates) -> list[Line]:
    """Return the lines of resources in the templates that cost by the hour or the month."""
    templates = list(templates)

    def all_of(kind: str) -> list[Properties]:
        return [properties for template in templates for _, properties in of_type(template, kind)]

    def count(kind: str) -> int:
        return len(all_of(kind))

    endpoints = [found for found in all_of("AWS::EC2::VPCEndpoint") if found.get("VpcEndpointType") == "Interface"]
    interfaces = sum(len(endpoint["SubnetIds"]) for endpoint in endpoints)  # one in each subnet of an endpoint
    clusters = all_of("AWS::RDS::DBCluster")
    scaling = [cluster.get("ServerlessV2ScalingConfiguration") for cluster in clusters]
    # the sweep and the health check connect so often that a cluster never pauses
    acus = math.fsum(max(each["MinCapacity"], LEAST_AWAKE) for each in scaling if each is not None)
    lines = [
        polling(count("AWS::Lambda::EventSourceMapping")),
        Line("NAT gateways", count("AWS::EC2::NatGateway") * HOURS, "NAT gateway hour"),
        Line("Public addresses", count("AWS::EC2::EIP") * HOURS, "Public IPv4 hour"),
        Line("Interface endpoints", interfaces * HOURS, "Interface endpoint hour"),
        Line("Aurora at its minimum capacity", acus * count("AWS::RDS::DBInstance") * HOURS, "Aurora ACU-hour"),
        Line("Secrets", count("AWS::SecretsManager::Secret"), "Secret"),
        Line(
            f"{count('AWS::CloudWatch::Alarm')} alarms, for each metric they read",
            sum(_metrics_read(alarm) for alarm in all_of("AWS::CloudWatch::Alarm")),
            "Alarm",
        ),
        Line("Dashboards", count("AWS::CloudWatch::Dashboard"), "Dashboard"),
        Line("KMS keys", count("AWS::KMS::Key"), "Key"),
    ]
    return [line for line in lines if line.amount]


def _metrics_read(alarm: Properties) -> int:
    """Return the number of metrics that ``alarm`` reads; each has its price."""
    return sum("MetricStat" in query for query in alarm["Metrics"]) if "Metrics" in alarm else 1


def idle(tasks: Tasks, templates: Templates, architecture: str, extras: Extras) -> list[Line]:
    """Return the lines of a stage, most expensive first, without storage, traffic and existing secrets."""
    compute = "Lambda GB-second" if architecture == "arm64" else "Lambda GB-second, x86_64"
    return sorted([*fixed(templates), *periodic(tasks, extras, compute)], key=lambda line: -line.dollars)


def of_stage(templates: Templates, tasks: Tasks) -> list[Line]:
    """Return the lines of a stage from the templates of its synth.

    ``tasks``: as declared; the templates contain the stage's own schedules.
    Raises :class:`SynthError` if none of the templates contains jobs.
    """
    templates = list(templates)
    all_metadata = [template.get("Metadata", {}) for template in templates]
    found = next((metadata[METADATA] for metadata in all_metadata if METADATA in metadata), None)
    if found is None:
        raise SynthError("none of the templates contains jobs of Joblane; run the synth of the stage again")
    tasks = apply_all(tasks, with_sweep(found["schedules"], found["sweep_minutes"]))
    extras = {type_: Extra(**extra) for type_, extra in found["extras"].items()}
    return idle(tasks, templates, found["architecture"], extras)


def total(lines: Iterable[Line]) -> float:
    return sum(line.dollars for line in lines)


def markdown(lines: Iterable[Line], *, with_sum: bool) -> str:
    """Return the lines as the Markdown table of ``docs/explanation/costs.md``."""
    lines = list(lines)
    rows = [f"| {line.what} | {_number(line.amount)} × {line.price} | {_shown(line.dollars)} |" for line in lines]
    if with_sum:
        rows.append(f"| **Sum** | | **{_shown(total(lines))}** |")
    return "\n".join(["| what | amount | a month |", "|---|---|---|", *rows])


def _shown(dollars: float) -> str:
    return f"${dollars:,.2f}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"
