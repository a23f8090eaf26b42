"""An estimate of a stage's monthly costs without jobs, from prices, task declarations and the stage's templates.

No synthesis imports it: the templates have what it reads, under :data:`~joblane.cdk.templates.COSTS`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import takewhile
from typing import Any

from joblane.cdk.errors import SynthError
from joblane.cdk.templates import COSTS, SETTINGS, Extra, Properties, Template, metadata, of_type
from joblane.enqueue.wake import GRID_SECONDS, LEAD_SECONDS
from joblane.names import SWEEP, Queue, database_id, nat_name
from joblane.prices import ALLOWANCES, MONTH, PRICES
from joblane.settings import SHORT_MINUTES
from joblane.tasks.places import lanes_of
from joblane.tasks.schedule import Schedule
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
SERVERLESS = "db.serverless"
"""Class of the instances of an Aurora Serverless v2 cluster."""
SECONDS_UNTIL_PAUSE = 300
"""Default of a cluster that may pause. Source: CloudFormation, *ServerlessV2ScalingConfiguration*."""
CALLS_OF_DATA_KEY = 3
"""Calls of KMS in a reuse period of a queue: two of a sender and one of a receiver. Source: SQS, *Key management*."""
FREE_METRICS = 50
"""Metrics of a dashboard that an account's allowance covers. Source: CloudWatch pricing."""
RUN_SECONDS, RUN_LOG_KB = 1, 1.5
"""Assumed for a run of a periodic task. The assumptions that only the documentation makes are in ``tests/costs.py``."""
START = datetime(2026, 11, 1, tzinfo=UTC)
"""A Sunday: the month then has five weekly ticks, the largest number."""
UNTIL_IDLE = timedelta(minutes=5)
"""Time from a tick until the database is without a connection: it starts, the task runs, the sweep follows within five
minutes, and the server ends idle sessions."""
SWEEP_EXTRA = Extra(metrics=3)  # Overdue, Runs, CostUsd; its requests follow from the queues
Extras = Mapping[str, Extra]
Tasks = Mapping[str, Task[Any, Any]]
Templates = Collection[Template]


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
    """Return the number of lanes and front doors. A Lambda function polls each. Types of a place share lanes."""
    return len({lane for task in tasks.values() for lane in lanes_of("", task)}) + len(Queue)


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
    metric_hours, gb_seconds = 0, 0.0
    for type_, each_run in runs.items():
        metric_hours += (TASK_METRICS + extras.get(type_, Extra()).metrics) * busy_hours(each_run)
        gb_seconds += RUN_SECONDS * len(each_run) * tasks[type_].memory_mb / 1024
    what = f"{all_runs:,} runs of periodic tasks, {swept:,} of them sweeps"
    kind = "periodic task" if len(runs) == 1 else "periodic tasks"
    return [
        Line(f"Metrics of {len(runs)} {kind}", metric_hours / HOURS, "Metric", "alarms and dashboard read them"),
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
        Line(f"{what}: GB-seconds", gb_seconds, compute, "their time"),
        Line(f"{what}: log", all_runs * RUN_LOG_KB / 1e6, "Log ingestion", "`joblane logs`"),
    ]


def busy_hours(runs: Iterable[datetime]) -> int:
    """Return the number of hours with a run. A metric costs for each hour in which it is written."""
    return len({moment.replace(minute=0, second=0) for moment in runs})


def fixed(tasks: Tasks, templates: Templates) -> list[Line]:
    """Return the lines of resources in the templates that cost by the hour or the month."""

    def all_of(kind: str) -> list[Properties]:
        return [properties for template in templates for _, properties in of_type(template, f"AWS::{kind}")]

    def hours(kind: str) -> float:
        return len(all_of(kind)) * HOURS

    prefix = str((metadata(templates, SETTINGS) or {}).get("prefix"))
    nat = [found for found in all_of("EC2::LaunchTemplate") if found.get("VersionDescription") == nat_name(prefix)]
    instances = [
        found for found in all_of("RDS::DBInstance") if found.get("DBInstanceIdentifier") == database_id(prefix)
    ]
    endpoints = [found for found in all_of("EC2::VPCEndpoint") if found.get("VpcEndpointType") == "Interface"]
    interfaces = sum(len(endpoint["SubnetIds"]) for endpoint in endpoints)  # one in each subnet of an endpoint
    alarms = all_of("CloudWatch::Alarm")
    # each metric that an alarm reads has its price
    read = [sum("MetricStat" in query for query in alarm.get("Metrics", [{"MetricStat": {}}])) for alarm in alarms]
    lines = [
        polling(len(all_of("Lambda::EventSourceMapping"))),
        Line("NAT gateways", hours("EC2::NatGateway"), "NAT gateway hour", "`egress`: the way out"),
        Line("NAT instance", len(nat) * HOURS, "NAT instance hour", "`egress`: the way out by IPv4"),
        Line("Its disk", sum(map(_disk_gb, nat)), "EBS GB-month", "its operating system"),
        Line(
            "Public addresses",
            hours("EC2::EIP") + len(nat) * HOURS,
            "Public IPv4 hour",
            "the NAT gateways, or the NAT instance",
        ),
        Line("Interface endpoints", interfaces * HOURS, "Interface endpoint hour", "`egress`: the way to AWS services"),
        *(_aurora(each, _serverless(templates), tasks) for each in _scaling(templates)),
        *(line for found in instances if not _is_serverless(found) for line in _instance(found)),
        Line("Secrets", len(all_of("SecretsManager::Secret")), "Secret", "logins, and the key of the page's sessions"),
        Line(
            f"{len(alarms)} alarms, for each metric they read",
            sum(read),
            "Alarm",
            "`monitoring`: they report what fails, waits or does not run",
        ),
        *_dashboards(all_of("CloudWatch::Dashboard")),
        Line("KMS keys", len(all_of("KMS::Key")), "Key", "`topic_key`: it encrypts the mails of alarms"),
        *_own_keys(templates, all_of("SQS::Queue")),
    ]
    return [line for line in lines if line.amount]


def _own_keys(templates: Templates, queues: Iterable[Properties]) -> list[Line]:
    """Return the lines of the keys in the settings, and of the calls of KMS for lanes and front doors, as if each had a
    sender in every hour."""
    keys = {*(metadata(templates, SETTINGS) or {}).get("keys", {}).values()}
    each = [
        found["KmsDataKeyReusePeriodSeconds"]
        for found in queues
        if "KmsDataKeyReusePeriodSeconds" in found and "RedrivePolicy" in found
    ]
    calls = sum(CALLS_OF_DATA_KEY * HOURS * 3600 / seconds for seconds in each)
    return [
        Line("Your own KMS keys", len(keys), "Key", "`kms_key`, `other_kms_keys`, `database.kms_key`"),
        Line(f"KMS calls of {len(each)} queues in use", calls, "KMS call", "a data key for each sender and hour"),
    ]


def _disk_gb(launch: Properties) -> float:
    return sum(float(disk["Ebs"]["VolumeSize"]) for disk in launch["LaunchTemplateData"].get("BlockDeviceMappings", ()))


def _dashboards(found: Sequence[Properties]) -> list[Line]:
    """Return a line for those that an account's allowance covers, and one for the others."""
    large = sum(_metrics_of(dashboard) > FREE_METRICS for dashboard in found)
    use = "`monitoring`: the stage on one page"
    return [
        Line("Dashboards", len(found) - large, "Dashboard", use),
        Line(f"Dashboards with more than {FREE_METRICS} metrics", large, "Dashboard with more than 50 metrics", use),
    ]


def _metrics_of(dashboard: Properties) -> int:
    body = dashboard["DashboardBody"]
    parts = body["Fn::Join"][1] if isinstance(body, Mapping) else [body]
    widgets = json.loads("".join(part if isinstance(part, str) else "…" for part in parts))["widgets"]
    shown = [metric for widget in widgets for metric in widget["properties"].get("metrics", ())]
    return sum(not isinstance(metric[0], Mapping) for metric in shown)  # an expression reads other metrics


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


def _is_serverless(instance: Properties) -> bool:
    return bool(instance.get("DBInstanceClass", SERVERLESS) == SERVERLESS)


def _serverless(templates: Templates) -> int:
    """Return the number of instances of an Aurora cluster."""
    return sum(_is_serverless(found) for each in templates for _, found in of_type(each, "AWS::RDS::DBInstance"))


def _instance(instance: Properties) -> list[Line]:
    """Return the lines of an instance of RDS for PostgreSQL in a single zone."""
    class_, storage = instance["DBInstanceClass"], float(instance["AllocatedStorage"])
    return [
        Line(f"RDS {class_}", HOURS, f"RDS {class_} hour", "the database, which never sleeps"),
        Line(f"RDS: {storage:g} GB", storage, "RDS GB-month", "its storage, used or not"),
    ]


def _pause(scaling: Properties) -> timedelta:
    return timedelta(seconds=scaling.get("SecondsUntilAutoPause", SECONDS_UNTIL_PAUSE))


def pausing(templates: Templates, tasks: Tasks) -> tuple[Awake, float] | None:
    """Return the wakes of the stage's database, and their cost in dollars a month. None: no database may pause."""
    found = next((each for each in _scaling(templates) if not each["MinCapacity"]), None)
    if found is None:
        return None
    tasks = as_in_stage(templates, tasks)
    return awake(tasks, _pause(found)), _aurora(found, _serverless(templates), tasks).dollars


def of_stage(templates: Templates, tasks: Tasks) -> list[Line]:
    """Return the lines of a stage, most expensive first, without storage, traffic and existing secrets.

    ``tasks``: as declared; the templates contain the stage's own schedules.
    Raises :class:`SynthError` if none of the templates contains jobs.
    """
    found, tasks = _metadata(templates), as_in_stage(templates, tasks)
    extras = {type_: Extra(**extra) for type_, extra in found["extras"].items()}
    lines = [*fixed(tasks, templates), *periodic(tasks, extras, compute_of(templates))]
    return sorted(lines, key=lambda line: -line.dollars)


def compute_of(templates: Templates) -> str:
    """Return the name of the price of a GB-second."""
    return "Lambda GB-second" if _metadata(templates)["architecture"] == "arm64" else "Lambda GB-second, x86_64"


def as_in_stage(templates: Templates, tasks: Tasks) -> Tasks:
    """Return the tasks with the times of the stage of these templates."""
    found = _metadata(templates)
    return apply_all(tasks, with_sweep(found["schedules"], found["sweep_minutes"]))


def _metadata(templates: Templates) -> Mapping[str, Any]:
    if (found := metadata(templates, COSTS)) is None:
        raise SynthError("none of the templates contains jobs of Joblane; run the synth of the stage again")
    return found


def total(lines: Iterable[Line]) -> float:
    return sum(line.dollars for line in lines)


def after_allowances(lines: Iterable[Line]) -> float:
    """Return the sum for an account that has this stage alone: each month, the first pieces cost nothing."""
    amounts: dict[str, float] = {}
    for line in lines:
        amounts[line.price] = amounts.get(line.price, 0) + line.amount
    return sum(max(amount - ALLOWANCES.get(price, 0), 0) * PRICES[price].each for price, amount in amounts.items())


# --- The hours of a database that pauses without connections ---------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Awake:
    """The wakes of a month: their number, and their ``time`` together.

    ``types``: the type of each periodic task → the time for which it alone would keep the database awake, longest
    first.
    """

    wakes: int
    time: timedelta
    types: Mapping[str, timedelta]

    @property
    def hours(self) -> float:
        return self.time / timedelta(hours=1)

    @property
    def is_always(self) -> bool:
        """True if the database never pauses."""
        return self.time >= MONTH


def sentences(found: Awake, dollars: float) -> tuple[str, str]:
    """Return what keeps a database awake and what that costs, and what to do about it. ``dollars``: of a month."""
    by_type = ", ".join(f"{type_} ({time / timedelta(hours=1):,.1f})" for type_, time in found.types.items())
    if found.is_always:
        frequent = [type_ for type_, time in found.types.items() if time >= MONTH] or [*found.types]
        do = '"sweep": "6 hours"' if SWEEP in frequent else "fewer ticks of these types in `schedules`"
        why = f"it may pause, and never does, for ${dollars:,.2f} a month: its schedules are as frequent as its pause"
        return f"{why}; hours a month of each type alone: {by_type}", f"set {do}, or a min_capacity above 0"
    why = (
        f"it may pause; schedules wake it {found.wakes} times a month and keep it awake for {found.hours:,.0f} of "
        f"{MONTH / timedelta(hours=1):,.0f} hours, for ${dollars:,.2f}; hours of each type alone: {by_type}"
    )
    if len(found.types) == 1:
        return why, "no change is needed; jobs and requests wake it in addition"
    return why, "types that run at the same time share a wake: give them common times in `schedules`"


def awake(tasks: Tasks, pause: timedelta) -> Awake:
    """Return when the schedules of ``tasks`` keep a database awake that pauses after ``pause`` without a connection."""
    stays = UNTIL_IDLE + pause
    wakes, time = _merged((moment for task in tasks.values() for moment in moments(task)), stays)
    alone = {type_: _merged(moments(task), stays)[1] for type_, task in tasks.items() if task.schedules}
    return Awake(wakes, time, dict(sorted(alone.items(), key=lambda item: (-item[1], item[0]))))


def moments(task: Task[Any, Any]) -> Iterator[datetime]:
    """Yield the ticks of all schedules of ``task`` in the month from :data:`START`."""
    for schedule in task.schedules:
        yield from times(schedule)


@cache
def times(schedule: Schedule) -> tuple[datetime, ...]:
    """Return the ticks of ``schedule`` in the month from :data:`START`: 43,200 if it fires each minute."""
    end = START + MONTH
    return tuple(takewhile(lambda moment: moment < end, schedule.after(START - timedelta(seconds=1))))


def sweeps(tasks: Tasks) -> set[datetime]:
    """Return the times of all sweeps of the month: by the schedule, and those that other ticks wake."""
    if SWEEP not in tasks:
        return set()
    own = set(moments(tasks[SWEEP]))
    if not own or MONTH / len(own) <= timedelta(minutes=SHORT_MINUTES):
        return own
    return own | {_swept(moment) for type_, task in tasks.items() if type_ != SWEEP for moment in moments(task)}


def _swept(moment: datetime) -> datetime:
    """Return the time of the sweep that a run at ``moment`` wakes."""
    ends = math.ceil((moment.timestamp() + LEAD_SECONDS) / GRID_SECONDS) * GRID_SECONDS
    return datetime.fromtimestamp(ends, UTC)


def _merged(ticks: Iterable[datetime], stays: timedelta) -> tuple[int, timedelta]:
    """Return the number of wakes, and the time that they take together."""
    wakes, time, until, end = 0, timedelta(0), START, START + MONTH
    for moment in sorted(ticks):
        wakes += moment > until or not wakes
        ends = min(moment + stays, end)
        time += max(ends - max(moment, until), timedelta(0))
        until = max(until, ends)
    return wakes, time
