"""An estimate of a stage's monthly costs without jobs, from prices, task declarations and the stage's templates.

Amounts that cannot be derived are in :data:`ASSUMED`. ``docs/explanation/costs.md`` is computed by the same code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from joblane.cdk.database_hours import MONTH, UNTIL_IDLE, Awake, Tasks, awake, moments, sweeps
from joblane.cdk.errors import SynthError
from joblane.cdk.templates import Properties, Template, metadata, of_type
from joblane.names import SWEEP, Queue
from joblane.prices import PRICES
from joblane.tasks.schedule_overrides import apply_all, with_sweep
from joblane.tasks.task import Task

HOURS = MONTH / timedelta(hours=1)
RECEIVES_PER_MAPPING = 5 * 3 * 60 * HOURS
"""Five pollers that each wait 20 s. Source: Lambda, *Configuring scaling behavior for SQS event source mappings*, and
``ReceiveMessage``, SQS API reference."""
TASK_METRICS = 4
"""Metrics of each task type that runs: Started, Completed, WaitMs, DurationMs."""
SWEEP_REQUESTS = 2
"""SQS requests of a sweep for each dead-letter queue: its URL and its size."""
LEAST_AWAKE = 0.5
"""Least ACUs of a cluster that may pause, while it runs. Source: Aurora, *Aurora Serverless v2 capacity*."""
SECONDS_UNTIL_PAUSE = 300
"""Default of a cluster that may pause. Source: CloudFormation, *ServerlessV2ScalingConfiguration*."""


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
    "Minutes from a tick until the database is idle": Amount(
        UNTIL_IDLE / timedelta(minutes=1),
        "minutes",
        "the database starts, the task runs, the sweep follows within five minutes; then comes `pause_after_minutes`",
    ),
    "Hours a day for which a pausing cluster is awake": Amount(8, "hours", "a working day; not measured"),
}


def assumed(name: str) -> float:
    return ASSUMED[name].number


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the estimate: ``amount`` times ``price``, which is a name in :data:`~joblane.prices.PRICES`.

    ``use``: the purpose of what it pays for.
    """

    what: str
    amount: float
    price: str
    use: str = ""

    @property
    def dollars(self) -> float:
        return self.amount * PRICES[self.price].each


# --- Counted from the declarations ---------------------------------------------------------------------------------


def mapped_queues(tasks: Tasks) -> int:
    """Return the number of lanes and front doors. A Lambda function polls each of them."""
    return sum(len(task.types) * len(task.lanes) for task in tasks.values()) + len(Queue)


def ticks(task: Task[Any, Any]) -> int:
    """Return the ticks of all schedules of ``task`` in a month."""
    return sum(1 for _ in moments(task))


def busy_hours(times: Iterable[datetime]) -> int:
    """Return the hours of a month with one of ``times``: a metric costs for each hour in which it is written."""
    return len({moment.replace(minute=0, second=0) for moment in times})


# --- The lines -----------------------------------------------------------------------------------------------------


def polling(queues: int) -> Line:
    use = "Lambda asks each lane and front door for messages, so that a task starts at once"
    return Line(f"Polling {queues} queues", queues * RECEIVES_PER_MAPPING, "SQS request", use)


def periodic(tasks: Tasks, extras: Extras, compute: str = "Lambda GB-second") -> list[Line]:
    """Return the lines of the periodic tasks. ``extras``: by type. ``compute``: price name of the architecture."""
    extras = {SWEEP: SWEEP_EXTRA, **extras}
    runs = {task.type: list(moments(task)) for task in tasks.values() if task.schedules}
    ran = sum(map(len, runs.values()))
    if SWEEP in runs:
        runs[SWEEP] = sorted(sweeps(tasks))
    all_runs, swept = sum(map(len, runs.values())), len(runs.get(SWEEP, ()))
    metric_months = sum(
        (TASK_METRICS + extras.get(type_, Extra()).metrics) * busy_hours(times) / HOURS for type_, times in runs.items()
    )
    each_second = sum(len(times) * tasks[type_].memory_mb / 1024 for type_, times in runs.items())
    what = f"{all_runs:,} runs of periodic tasks, {swept:,} of them sweeps"
    kind = "periodic task" if len(runs) == 1 else "periodic tasks"
    return [
        Line(f"Metrics of {len(runs)} {kind}", metric_months, "Metric", "alarms and dashboard read them"),
        Line(f"{ran:,} ticks: Scheduler", ran, "Schedule invocation", "EventBridge starts the periodic tasks"),
        Line(f"{what}: send, receive, delete", 3 * all_runs, "SQS request", "the messages of these runs"),
        *(
            Line(f"{len(runs[type_]):,} runs of {type_}: its own SQS requests", requests, "SQS request", "its checks")
            for type_, extra in extras.items()
            if type_ in runs and (requests := extra.sqs_requests * len(runs[type_]))
        ),
        Line(
            f"{swept:,} sweeps: reading the sizes of the dead-letter queues",
            SWEEP_REQUESTS * mapped_queues(tasks) * swept,
            "SQS request",
            "an alarm reports messages that SQS moved there",
        ),
        Line(f"{what}: invocations", all_runs, "Lambda request", "the functions of these runs"),
        Line(f"{what}: GB-seconds", each_second * assumed("Seconds of a periodic run"), compute, "their time"),
        Line(f"{what}: log", all_runs * assumed("KB of log of a run") / 1e6, "Log ingestion", "`joblane logs`"),
    ]


def fixed(tasks: Tasks, templates: Templates) -> list[Line]:
    """Return the lines of resources in the templates that cost by the hour or the month."""
    templates = list(templates)

    def all_of(kind: str) -> list[Properties]:
        return [properties for template in templates for _, properties in of_type(template, kind)]

    def count(kind: str) -> int:
        return len(all_of(kind))

    endpoints = [found for found in all_of("AWS::EC2::VPCEndpoint") if found.get("VpcEndpointType") == "Interface"]
    interfaces = sum(len(endpoint["SubnetIds"]) for endpoint in endpoints)  # one in each subnet of an endpoint
    lines = [
        polling(count("AWS::Lambda::EventSourceMapping")),
        Line("NAT gateways", count("AWS::EC2::NatGateway") * HOURS, "NAT gateway hour", "`egress`: the way out"),
        Line("Public addresses", count("AWS::EC2::EIP") * HOURS, "Public IPv4 hour", "those of the NAT gateways"),
        Line("Interface endpoints", interfaces * HOURS, "Interface endpoint hour", "`egress`: the way to AWS services"),
        *(_aurora(each, count("AWS::RDS::DBInstance"), tasks) for each in _scaling(templates)),
        Line("Secrets", count("AWS::SecretsManager::Secret"), "Secret", "logins, and the key of the page's sessions"),
        Line(
            f"{count('AWS::CloudWatch::Alarm')} alarms, for each metric they read",
            sum(_metrics_read(alarm) for alarm in all_of("AWS::CloudWatch::Alarm")),
            "Alarm",
            "`monitoring`: they report what fails, waits or does not run",
        ),
        Line("Dashboards", count("AWS::CloudWatch::Dashboard"), "Dashboard", "`monitoring`: the stage on one page"),
        Line("KMS keys", count("AWS::KMS::Key"), "Key", "`topic_key`: it encrypts the mails of alarms"),
    ]
    return [line for line in lines if line.amount]


def _scaling(templates: Templates) -> list[Properties]:
    """Return the range of capacity of each Aurora cluster."""
    clusters = [cluster for template in templates for _, cluster in of_type(template, "AWS::RDS::DBCluster")]
    return [scaling for cluster in clusters if (scaling := cluster.get("ServerlessV2ScalingConfiguration"))]


def _aurora(scaling: Properties, instances: int, tasks: Tasks) -> Line:
    if scaling["MinCapacity"]:
        acus = scaling["MinCapacity"] * instances
        return Line("Aurora at its minimum capacity", acus * HOURS, "Aurora ACU-hour", "the database, always awake")
    found = awake(tasks, _pause(scaling))
    what = f"Aurora, awake for {found.hours:,.0f} of {HOURS:,.0f} hours"
    use = f"the database; {found.wakes:,} times a month its schedules wake it"
    if found.is_always:
        use = f"the database, always awake because of {next(iter(found.types))}"
    return Line(what, LEAST_AWAKE * instances * found.hours, "Aurora ACU-hour", use)


def _pause(scaling: Properties) -> timedelta:
    return timedelta(seconds=scaling.get("SecondsUntilAutoPause", SECONDS_UNTIL_PAUSE))


def pausing(templates: Templates, tasks: Tasks) -> tuple[Awake, float] | None:
    """Return the wakes of the stage's database, and their cost in dollars a month. None: no database may pause."""
    templates = list(templates)
    found = next((each for each in _scaling(templates) if not each["MinCapacity"]), None)
    if found is None:
        return None
    tasks = as_in_stage(templates, tasks)
    instances = sum(1 for template in templates for _ in of_type(template, "AWS::RDS::DBInstance"))
    return awake(tasks, _pause(found)), _aurora(found, instances, tasks).dollars


def _metrics_read(alarm: Properties) -> int:
    """Return the number of metrics that ``alarm`` reads; each has its price."""
    return sum("MetricStat" in query for query in alarm["Metrics"]) if "Metrics" in alarm else 1


def idle(tasks: Tasks, templates: Templates, architecture: str, extras: Extras) -> list[Line]:
    """Return the lines of a stage, most expensive first, without storage, traffic and existing secrets."""
    compute = "Lambda GB-second" if architecture == "arm64" else "Lambda GB-second, x86_64"
    return sorted([*fixed(tasks, templates), *periodic(tasks, extras, compute)], key=lambda line: -line.dollars)


def of_stage(templates: Templates, tasks: Tasks) -> list[Line]:
    """Return the lines of a stage from the templates of its synth.

    ``tasks``: as declared; the templates contain the stage's own schedules.
    Raises :class:`SynthError` if none of the templates contains jobs.
    """
    templates = list(templates)
    found, tasks = _metadata(templates), as_in_stage(templates, tasks)
    extras = {type_: Extra(**extra) for type_, extra in found["extras"].items()}
    return idle(tasks, templates, found["architecture"], extras)


def as_in_stage(templates: Templates, tasks: Tasks) -> Tasks:
    """Return the tasks with the times of the stage of these templates."""
    found = _metadata(templates)
    return apply_all(tasks, with_sweep(found["schedules"], found["sweep_minutes"]))


def _metadata(templates: Templates) -> Mapping[str, Any]:
    if (found := metadata(templates, METADATA)) is None:
        raise SynthError("none of the templates contains jobs of Joblane; run the synth of the stage again")
    return found


def total(lines: Iterable[Line]) -> float:
    return sum(line.dollars for line in lines)


def markdown(lines: Iterable[Line], *, with_sum: bool) -> str:
    """Return the lines as the Markdown table of ``docs/explanation/costs.md``, with their uses if they have some."""
    lines = list(lines)
    has_use = any(line.use for line in lines)
    rows = [["what", "for", "amount", "a month"], ["---"] * 4]
    rows += [[line.what, line.use, f"{_number(line.amount)} × {line.price}", _shown(line.dollars)] for line in lines]
    if with_sum:
        rows.append(["**Sum**", "", "", f"**{_shown(total(lines))}**"])
    return "\n".join(_row(row if has_use else [row[0], *row[2:]]) for row in rows)


def _row(cells: list[str]) -> str:
    if set(cells) == {"---"}:
        return "|" + "---|" * len(cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _shown(dollars: float) -> str:
    return f"${dollars:,.2f}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"
