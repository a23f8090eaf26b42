"""What a stage costs, from the prices and amounts in ``docs/costs.md`` and from what the tasks declare.

``python -m tests.costs`` writes the results into the page; ``tests/unit/test_costs.py`` holds them together. Prices,
and the amounts that nobody can derive, are written by hand, in the page alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.jobs.discovery import discover
from shared.jobs.queues import Queue
from shared.jobs.task import Task
from tests.pages import ROOT, table

PAGE = ROOT / "docs" / "costs.md"
MONTH = timedelta(days=30)
HOURS = MONTH / timedelta(hours=1)
START = datetime(2026, 11, 1, tzinfo=UTC)
"""A Sunday, so that five weekly ticks come in the month that is counted: the dearest."""
RECEIVES_PER_MAPPING = 5 * 3 * 60 * HOURS
"""Five pollers that each wait 20 s. Source: Lambda, *Configuring scaling behavior for SQS event source mappings*, and
``ReceiveMessage``, SQS API reference."""
TASK_METRICS = 4
"""Of each task type that runs: Started, Succeeded, WaitMs, DurationMs."""
HEALTH_CHECKS = len(Queue) + 2
"""Front doors, database, sweep; a configured service is one more each."""
HEALTH_METRICS = 2 * HEALTH_CHECKS + 1
"""Passed and time of each, and one for the whole."""
HEALTH_REQUESTS = 2 * len(Queue)
"""Of SQS, in each health check."""
HEALTH_CHECK = "system:health_check"

Tasks = Mapping[str, Task[Any, Any]]


@dataclass(frozen=True)
class Line:
    """``amount`` of what costs ``price`` a piece, by the names of the page."""

    what: str
    amount: float
    price: str

    def cost(self, prices: Mapping[str, float]) -> float:
        return self.amount * prices[self.price]


def prices() -> dict[str, float]:
    """Name → dollars per piece, from the page's table of prices: ``$0.40 per million``."""
    return {row[0]: _dollars(row[1]) for row in table(PAGE, "Prices")}


def amounts() -> dict[str, float]:
    """What is assumed, by name, from the page."""
    return {row[0]: float(row[1].split()[0].replace(",", "")) for row in table(PAGE, "What is assumed")}


def _dollars(text: str) -> float:
    found = re.match(r"\$([\d.]+) per (million|1,000|10,000)?", text)
    assert found is not None, text
    return float(found[1]) / {"million": 1e6, "1,000": 1e3, "10,000": 1e4, None: 1}[found[2]]


# --- Counted from the declarations ---------------------------------------------------------------------------------


def mapped_queues(tasks: Tasks) -> int:
    """Lanes and front doors: each has a Lambda that reads it."""
    return sum(len(task.types) * len(task.lanes) for task in tasks.values()) + len(Queue)


def ticks(task: Task[Any, Any]) -> int:
    """In a month, of all its schedules."""
    return sum(len(_times(schedule)) for schedule in task.schedules)


def busy_hours(task: Task[Any, Any]) -> int:
    """Hours of a month in which it ticks: a metric costs for the hours that it is written in."""
    times = [moment for schedule in task.schedules for moment in _times(schedule)]
    return len({moment.replace(minute=0, second=0) for moment in times})


def _times(schedule: Any) -> list[datetime]:
    found, moment = [], schedule.next_after(START - timedelta(seconds=1))
    while moment < START + MONTH:
        found.append(moment)
        moment = schedule.next_after(moment)
    return found


# --- The tables ----------------------------------------------------------------------------------------------------


def idle(tasks: Tasks, assumed: Mapping[str, float]) -> list[Line]:
    """The smallest stage in which nobody does anything: no network, an existing database, no API."""
    queues, ran = mapped_queues(tasks), sum(ticks(task) for task in tasks.values())
    checks = ticks(tasks[HEALTH_CHECK])
    metric_months = sum(
        (TASK_METRICS + (HEALTH_METRICS if task.type == HEALTH_CHECK else 0)) * busy_hours(task) / HOURS
        for task in tasks.values()
    )
    types = sum(bool(task.schedules) for task in tasks.values())
    seconds = sum(ticks(task) * task.memory_mb / 1024 for task in tasks.values()) * assumed["Seconds of a periodic run"]
    return [
        Line(f"Polling of {queues} queues", queues * RECEIVES_PER_MAPPING, "SQS request"),
        Line(f"Metrics of {types} periodic tasks", metric_months, "Metric"),
        Line("The secret of the database", 1, "Secret"),
        Line(f"{ran:,} ticks: Scheduler", ran, "Schedule invocation"),
        Line(f"{ran:,} ticks: send, receive, delete", 3 * ran, "SQS request"),
        Line(f"{checks:,} health checks: what they ask of SQS", HEALTH_REQUESTS * checks, "SQS request"),
        Line(f"{ran:,} ticks: invocations", ran, "Lambda request"),
        Line(f"{ran:,} ticks: GB-seconds", seconds, "Lambda GB-second"),
        Line(f"{ran:,} ticks: log", ran * assumed["KB of log of a run"] / 1e6, "Log, taken in"),
    ]


def additions(assumed: Mapping[str, float]) -> list[Line]:
    """What a setting adds to that each month."""
    return [
        Line("`network`: one NAT gateway", HOURS, "NAT gateway hour"),
        Line("`network`: its public address", HOURS, "Public IPv4 hour"),
        Line("`network`: an interface endpoint in two zones, for each service", 2 * HOURS, "Interface endpoint hour"),
        Line("`database`: Aurora at 0.5 ACU, always awake", 0.5 * HOURS, "Aurora ACU-hour"),
        Line(
            "`database`: Aurora at 0.5 ACU, asleep but for the hours assumed",
            0.5 * 30 * assumed["Hours a day that a sleeping cluster is awake"],
            "Aurora ACU-hour",
        ),
        Line("`database`: 10 GB in Aurora", 10, "Aurora GB-month"),
        Line("`database.migration_secret`, or any further secret", 1, "Secret"),
        Line("10 GB of exports", 10, "S3 GB-month"),
        Line("An alarm", 1, "Alarm"),
    ]


def million(assumed: Mapping[str, float]) -> list[Line]:
    """A million jobs, each enqueued by a call of its own straight to its lane, and delivered alone."""
    jobs = 1e6
    return [
        Line("Send, receive, delete", 3 * jobs, "SQS request"),
        Line("Invocations", jobs, "Lambda request"),
        Line(
            "GB-seconds",
            jobs * assumed["Seconds of a job"] * assumed["MB of a job's function"] / 1024,
            "Lambda GB-second",
        ),
        Line("Log", jobs * assumed["KB of log of a run"] / 1e6, "Log, taken in"),
        Line("Aurora: I/O", jobs * assumed["I/O requests of a job"], "Aurora I/O request"),
        Line(
            "Aurora: rows, for as long as ids are kept", jobs * assumed["KB of a job's rows"] / 1e6, "Aurora GB-month"
        ),
    ]


def on_top(assumed: Mapping[str, float]) -> list[Line]:
    """What some of a million jobs have besides."""
    jobs = 1e6
    return [
        Line("Through a front door: send, receive, delete once more", 3 * jobs, "SQS request"),
        Line("With a `tenant`: fair queues", 3 * jobs, "SQS request of a fair queue, on top"),
        Line("Asked for through the API", jobs, "HTTP API request"),
        Line("Behind a NAT gateway", jobs * assumed["KB of a job through the NAT"] / 1e6, "NAT gateway GB"),
    ]


SECTIONS: Mapping[str, Callable[[], tuple[list[Line], bool]]] = {
    "idle": lambda: (idle(discover(), amounts()), True),
    "additions": lambda: (additions(amounts()), False),
    "million": lambda: (million(amounts()), True),
    "on-top": lambda: (on_top(amounts()), False),
}
"""Name of the marker in the page → its lines, and whether they add up to something."""


def render(lines: list[Line], costs: Mapping[str, float], *, total: bool) -> str:
    rows = [f"| {line.what} | {_number(line.amount)} × {line.price} | {_shown(line.cost(costs))} |" for line in lines]
    if total:
        rows.append(f"| **Sum** | | **{_shown(sum(line.cost(costs) for line in lines))}** |")
    return "\n".join(["| what | amount | a month |", "|---|---|---|", *rows])


def _shown(dollars: float) -> str:
    return f"${dollars:,.2f}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"


def rendered(text: str) -> str:
    """The page with its results made anew."""
    costs = prices()
    for name, section in SECTIONS.items():
        lines, total = section()
        marked = re.compile(rf"(<!-- costs: {name} -->\n).*?(<!-- end -->)", re.S)
        shown = render(lines, costs, total=total)
        text, count = marked.subn(lambda match, shown=shown: f"{match[1]}{shown}\n{match[2]}", text)  # type: ignore[misc]
        assert count == 1, f"{PAGE.name}: <!-- costs: {name} --> is there {count} times"
    return text


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text()))
