"""What a stage costs a month in which nobody does anything: an estimate, from prices, from what the tasks declare,
and what stands in the stage's templates.

The amounts that nobody can derive are in :data:`ASSUMED`. ``docs/explanation/costs.md`` is computed by the same code.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from joblane.cdk.errors import SynthError
from joblane.cdk.templates import Properties, Template, of_type
from joblane.declaration import Task
from joblane.enqueue.wake import SWEEP
from joblane.prices import PRICES
from joblane.queues import Queue
from joblane.schedule_overrides import apply_all

MONTH = timedelta(days=30)
HOURS = MONTH / timedelta(hours=1)
START = datetime(2026, 11, 1, tzinfo=UTC)
"""A Sunday, so that five weekly ticks come in the month that is counted: the dearest."""
RECEIVES_PER_MAPPING = 5 * 3 * 60 * HOURS
"""Five pollers that each wait 20 s. Source: Lambda, *Configuring scaling behavior for SQS event source mappings*, and
``ReceiveMessage``, SQS API reference."""
TASK_METRICS = 4
"""Of each task type that runs: Started, Completed, WaitMs, DurationMs."""
SWEEP_REQUESTS = 2
"""Of SQS, in each sweep, for each dead-letter queue: where it is, and how much is in it."""
LEAST_AWAKE = 0.5
"""ACUs of a cluster that may sleep, while it does not. Source: Aurora, *Aurora Serverless v2 capacity*."""


@dataclass(frozen=True, slots=True)
class Extra:
    """What the runs of a periodic task cost on top of what every task's do.

    ``metrics``: those of its own that it writes in every run. ``sqs_requests``: in each run.
    """

    metrics: int = 0
    sqs_requests: int = 0


SWEEP_EXTRA = Extra(metrics=1)  # Overdue; its requests follow from the queues
METADATA = "JoblaneCosts"
"""Where a template has what this takes: architecture, schedules and extras of the stage."""
Tasks = Mapping[str, Task[Any, Any]]
Extras = Mapping[str, Extra]
Templates = Iterable[Template]


@dataclass(frozen=True, slots=True)
class Amount:
    """A number that is assumed, its unit, and why."""

    number: float
    unit: str
    why: str


ASSUMED: Mapping[str, Amount] = {
    "Seconds of a periodic run": Amount(1, "second", "start-up included; it mostly waits for the database"),
    "KB of log of a run": Amount(1.5, "KB", "Lambda's three lines, one of the library, and the metrics"),
    "Seconds of a job": Amount(0.1, "seconds", "replace it by the duration of your own handlers"),
    "MB of a job's function": Amount(512, "MB", "the default of `memory_mb`"),
    "I/O requests of a job": Amount(
        20, "requests", "four small writes and their indexes, counted in units of 4 KB; not measured"
    ),
    "KB of a job's rows": Amount(2, "KB", "a task with a payload of a few hundred bytes, and one run"),
    "KB of a job through the NAT": Amount(8, "KB", "three requests to SQS with TLS, on open connections"),
    "Hours a day that a sleeping cluster is awake": Amount(8, "hours", "a working day; not measured"),
}


def assumed(name: str) -> float:
    return ASSUMED[name].number


@dataclass(frozen=True, slots=True)
class Line:
    """``amount`` of what costs ``price`` a piece, by the names of the table."""

    what: str
    amount: float
    price: str

    @property
    def dollars(self) -> float:
        return self.amount * PRICES[self.price].each


# --- Counted from the declarations ---------------------------------------------------------------------------------


def mapped_queues(tasks: Tasks) -> int:
    """Lanes and front doors: each has a Lambda that reads it."""
    return sum(len(task.types) * len(task.lanes) for task in tasks.values()) + len(Queue)


def ticks(task: Task[Any, Any]) -> int:
    """In a month, of all its schedules."""
    return sum(len(times(schedule)) for schedule in task.schedules)


def busy_hours(task: Task[Any, Any]) -> int:
    """Hours of a month in which it ticks: a metric costs for the hours that it is written in."""
    found = [moment for schedule in task.schedules for moment in times(schedule)]
    return len({moment.replace(minute=0, second=0) for moment in found})


def times(schedule: Any) -> list[datetime]:
    """Of the month that is counted."""
    found, moment = [], schedule.next_after(START - timedelta(seconds=1))
    while moment < START + MONTH:
        found.append(moment)
        moment = schedule.next_after(moment)
    return found


# --- The lines -----------------------------------------------------------------------------------------------------


def polling(queues: int) -> Line:
    return Line(f"Polling of {queues} queues", queues * RECEIVES_PER_MAPPING, "SQS request")


def periodic(tasks: Tasks, extras: Extras, compute: str = "Lambda GB-second") -> list[Line]:
    """What runs although nobody does anything. ``extras``: by type. ``compute``: the price of the architecture."""
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
            f"{sweeps:,} sweeps: depths of the dead-letter queues",
            SWEEP_REQUESTS * mapped_queues(tasks) * sweeps,
            "SQS request",
        ),
        Line(f"{ran:,} ticks: invocations", ran, "Lambda request"),
        Line(f"{ran:,} ticks: GB-seconds", seconds, compute),
        Line(f"{ran:,} ticks: log", ran * assumed("KB of log of a run") / 1e6, "Log ingestion"),
    ]


def smallest(tasks: Tasks, extras: Extras) -> list[Line]:
    """The smallest stage: no network, no API, and a database that exists already, with its secret."""
    return [polling(mapped_queues(tasks)), Line("The secret of the database", 1, "Secret"), *periodic(tasks, extras)]


def standing(templates: Templates) -> list[Line]:
    """What costs by being there, as it stands in the templates of a stage."""
    templates = list(templates)

    def all_of(kind: str) -> list[Properties]:
        return [properties for template in templates for _, properties in of_type(template, kind)]

    def count(kind: str) -> int:
        return len(all_of(kind))

    endpoints = [one for one in all_of("AWS::EC2::VPCEndpoint") if one.get("VpcEndpointType") == "Interface"]
    clusters = all_of("AWS::RDS::DBCluster")
    scaling = [cluster.get("ServerlessV2ScalingConfiguration") for cluster in clusters]
    # the sweep and the health check keep a cluster that may sleep awake
    acus = math.fsum(max(each["MinCapacity"], LEAST_AWAKE) for each in scaling if each is not None)
    managed = sum(bool(cluster.get("ManageMasterUserPassword")) for cluster in clusters)  # RDS makes these secrets
    lines = [
        polling(count("AWS::Lambda::EventSourceMapping")),
        Line("NAT gateways", count("AWS::EC2::NatGateway") * HOURS, "NAT gateway hour"),
        Line("Public addresses", count("AWS::EC2::EIP") * HOURS, "Public IPv4 hour"),
        # an endpoint has an interface in every subnet that it names
        Line("Interface endpoints", sum(len(one["SubnetIds"]) for one in endpoints) * HOURS, "Interface endpoint hour"),
        Line("Aurora at its minimum capacity", acus * count("AWS::RDS::DBInstance") * HOURS, "Aurora ACU-hour"),
        Line("Secrets", count("AWS::SecretsManager::Secret") + managed, "Secret"),
        Line(
            f"{count('AWS::CloudWatch::Alarm')} alarms, by the metrics they read",
            sum(_metrics_read(alarm) for alarm in all_of("AWS::CloudWatch::Alarm")),
            "Alarm",
        ),
        Line("Dashboards", count("AWS::CloudWatch::Dashboard"), "Dashboard"),
        Line("Keys of KMS", count("AWS::KMS::Key"), "Key"),
    ]
    return [line for line in lines if line.amount]


def _metrics_read(alarm: Properties) -> int:
    """Each is paid for, also where one alarm computes with several."""
    return sum("MetricStat" in query for query in alarm["Metrics"]) if "Metrics" in alarm else 1


def idle(tasks: Tasks, templates: Templates, architecture: str, extras: Extras) -> list[Line]:
    """A stage, dearest first. Without storage, traffic, and secrets that exist already."""
    compute = "Lambda GB-second" if architecture == "arm64" else "Lambda GB-second, x86_64"
    return sorted([*standing(templates), *periodic(tasks, extras, compute)], key=lambda line: -line.dollars)


def of_stage(templates: Templates, tasks: Tasks) -> list[Line]:
    """By the templates that a synth wrote. ``tasks``: as declared; the stage's own schedules stand in the templates.

    Raises :class:`SynthError` where none of the templates holds jobs.
    """
    templates = list(templates)
    found = next((one["Metadata"][METADATA] for one in templates if METADATA in one.get("Metadata", {})), None)
    if found is None:
        raise SynthError("none of the templates is of Joblane's jobs")
    tasks = apply_all(tasks, found["schedules"])
    extras = {type_: Extra(**extra) for type_, extra in found["extras"].items()}
    return idle(tasks, templates, found["architecture"], extras)


def total(lines: Iterable[Line]) -> float:
    return sum(line.dollars for line in lines)


def markdown(lines: Iterable[Line], *, with_sum: bool) -> str:
    """A table, as ``docs/explanation/costs.md`` has it."""
    lines = list(lines)
    rows = [f"| {line.what} | {_number(line.amount)} × {line.price} | {_shown(line.dollars)} |" for line in lines]
    if with_sum:
        rows.append(f"| **Sum** | | **{_shown(total(lines))}** |")
    return "\n".join(["| what | amount | a month |", "|---|---|---|", *rows])


def _shown(dollars: float) -> str:
    return f"${dollars:,.2f}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"
