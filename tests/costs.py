"""The tables of ``docs/explanation/costs.md``, computed from prices, templates of stages and task declarations.

``python -m tests.costs`` writes them into the page. ``tests/unit/cdk/test_costs.py`` compares them with the code, and
``tests/infra/test_costs_of_stage.py`` the tables that depend on the templates of a stage.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

from joblane.cdk.costs import (
    CALLS_OF_DATA_KEY,
    HOURS,
    LEAST_AWAKE,
    RECEIVES_PER_MAPPING,
    RUN_LOG_KB,
    RUN_SECONDS,
    UNTIL_IDLE,
    Line,
    after_allowances,
    total,
)
from joblane.cdk.million import COMMITS, JOB_MB, JOB_ROWS_KB, JOB_SECONDS, JOB_WAL_KB, JOB_WRITES, RETENTION_WAL_KB
from joblane.cli.scaffold import init
from joblane.prices import ALLOWANCES, AS_OF, PRICES
from joblane.project import Project
from tests.pages import ROOT

DISK_GB = 8
"""Disk of a NAT instance. ``tests/infra/test_nat_instance.py`` compares it with the construct, which needs the CDK."""
REFRESH_SECONDS = 5
"""Time between two refreshes of the overview, as in its template."""
TYPES, PLACES = 100, 5
"""The numbers of the table that compares places with functions."""
ALARM_METRICS = {"type": 8, "type of a place": 6, "place": 2}
"""Metrics that the alarms of a type with one lane read, with ``detail`` ``lanes``. ``tests/infra/test_places.py``
compares them with the alarms, which need the CDK."""
STAGES = ("dev", "prod")
"""Stages of ``cdk.json`` with a table in the page."""
PAGE = ROOT / "docs" / "explanation" / "costs.md"


@dataclass(frozen=True, slots=True)
class Amount:
    """An assumed number, its unit, and the reason."""

    number: float
    unit: str
    why: str


ASSUMED: Mapping[str, Amount] = {
    "Seconds of a periodic run": Amount(RUN_SECONDS, "second", "start-up included; it mostly waits for the database"),
    "KB of log of a run": Amount(RUN_LOG_KB, "KB", "three lines of Lambda, one line of the library, and the metrics"),
    "Seconds of a job": Amount(JOB_SECONDS, "seconds", "replace this value by the duration of your own handlers"),
    "MB of a job's function": Amount(JOB_MB, "MB", "the default of `memory_mb`"),
    "Writes of a job": Amount(
        JOB_WRITES,
        "writes",
        f"{COMMITS} commits with {JOB_WAL_KB} KB of log, and {RETENTION_WAL_KB} KB for the retention, as "
        "measured in `tests/bench/growth.md`. Aurora counts units of 4 KB, and a commit takes one at least",
    ),
    "KB of a job's rows": Amount(JOB_ROWS_KB, "KB", "a task with a payload of a few hundred bytes, and one run"),
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


@dataclass(frozen=True)
class Stages:
    """The lines of stages, and of a million jobs.

    ``init``: what `joblane init` writes; ``jobs``: a million jobs there. ``platform``: the stages of ``cdk.json``.
    """

    init: list[Line]
    jobs: list[Line]
    platform: Mapping[str, list[Line]]

    def asleep(self) -> list[Line]:
        """Return the lines without ``monitoring``."""
        return [line for line in self.init if line.price not in ("Alarm", "Dashboard")]

    def own(self) -> list[Line]:
        """Return the lines without ``monitoring``, and with a PostgreSQL that exists already."""
        secret = Line("The secret of the database", 1, "Secret", "the password of the functions' user")
        lines = [*(line for line in self.asleep() if not line.price.startswith("Aurora")), secret]
        return sorted(lines, key=lambda line: -line.dollars)

    def rows(self) -> Iterator[tuple[str, list[Line]]]:
        """Yield the rows of the first table."""
        yield "what `joblane init` writes, with a PostgreSQL that you have, without `monitoring`", self.own()
        yield "the same with an Aurora that sleeps", self.asleep()
        yield "the same with alarms and dashboard: `joblane init`, unchanged", self.init
        yield "the same, and a million jobs, spread over the month", [*self.init, *self.jobs]
        for name, lines in self.platform.items():
            yield f"`{name}` in `cdk.json` of this repository", lines


def additions() -> list[Line]:
    """Amounts that settings add to the smallest stage each month."""
    refreshes, seconds = 30 * 8 * 3600 / REFRESH_SECONDS, assumed("Seconds of a refresh of the page")
    return [
        Line("`egress` `nat_instance`: the instance", HOURS, "NAT instance hour"),
        Line("`egress` `nat_instance`: its disk", DISK_GB, "EBS GB-month"),
        Line("`egress` `nat_instance`: its public address", HOURS, "Public IPv4 hour"),
        Line("`egress` `nat_instance`: its three alarms", 3, "Alarm"),
        Line("`egress` `nat`: one NAT gateway", HOURS, "NAT gateway hour"),
        Line("`egress` `nat`: its public address", HOURS, "Public IPv4 hour"),
        Line(
            "`egress` `endpoints`: an interface endpoint in two zones, for each service",
            2 * HOURS,
            "Interface endpoint hour",
        ),
        Line(f"`database`: Aurora at {LEAST_AWAKE} ACU, always awake", LEAST_AWAKE * HOURS, "Aurora ACU-hour"),
        Line(
            f"`database`: Aurora at {LEAST_AWAKE} ACU, paused outside the hours of [the last table](#what-is-assumed)",
            LEAST_AWAKE * 30 * assumed("Hours a day for which a pausing cluster is awake"),
            "Aurora ACU-hour",
        ),
        Line("`database`: 10 GB in Aurora", 10, "Aurora GB-month"),
        Line("`database.kind` `rds`: db.t4g.micro, always awake", HOURS, "RDS db.t4g.micro hour"),
        Line("`database.kind` `rds`: the same with db.t4g.small", HOURS, "RDS db.t4g.small hour"),
        Line("`database.kind` `rds`: the same with db.t4g.medium", HOURS, "RDS db.t4g.medium hour"),
        Line("`database.kind` `rds`: its 20 GB", 20, "RDS GB-month"),
        Line("`database.migration_secret`, or any other secret", 1, "Secret"),
        Line("10 GB of exports", 10, "S3 GB-month"),
        Line("An alarm of one metric", 1, "Alarm"),
        Line("A dashboard", 1, "Dashboard"),
        Line("The key of the alarms' topics", 1, "Key"),
        Line("`page`, while nobody looks: the key of its sessions", 1, "Secret"),
        Line("`page`: an overview that is visible for 8 hours a day", 2 * refreshes, "HTTP API request"),
        Line("`page`: the same, its invocations and those of the control API", 2 * refreshes, "Lambda request"),
        Line("`page`: the same, GB-seconds", refreshes * seconds * (1024 + 512) / 1024, "Lambda GB-second"),
        Line("`page`: an hour of following logs, six times ten minutes", 2 * 3_600 / 2, "HTTP API request"),
        Line("`monitoring.slack`: a channel of Slack", 0, "Key"),
        Line("`monitoring.budget`: a budget that only notifies", 0, "Key"),
        Line("`kms_key` or `database.kms_key`: a key of your own", 1, "Key"),
        Line("`kms_key`: a lane that is in use in each hour, with one sender", CALLS_OF_DATA_KEY * HOURS, "KMS call"),
        Line("A type whose due tasks wait for the whole month: its `OldestDueSeconds`", 1, "Metric"),
    ]


def on_top() -> list[Line]:
    """Amounts that some of a million jobs add."""
    jobs = 1e6
    gb_seconds = jobs * assumed("Seconds of a job") * assumed("MB of a job's function") / 1024
    return [
        Line("Through a front door: a second send, receive, delete", 3 * jobs, "SQS request"),
        Line("With a `tenant`: fair queues", 3 * jobs, "SQS request of a fair queue, on top"),
        Line("With `architecture` x86_64, instead of the GB-seconds above", gb_seconds, "Lambda GB-second, x86_64"),
        Line("Enqueued through the HTTP API", jobs, "HTTP API request"),
        Line(
            "With the database in another zone, for half of the jobs",
            jobs / 2 * assumed("KB of a job to and from the database") / 1e6,
            "Traffic between zones",
        ),
        Line("With an event for each", jobs, "Event"),
        Line("With `events.webhook`, for each event", jobs, "Webhook request"),
        Line("Behind a NAT gateway", jobs * assumed("KB of a job through the NAT") / 1e6, "NAT gateway GB"),
    ]


def places() -> list[Line]:
    """The costs of many idle types, each with its own function, and in a few places."""
    alone, together = f"{TYPES} types, each with its function", f"{TYPES} types in {PLACES} places"
    alarms = (TYPES * ALARM_METRICS["type of a place"]) + PLACES * ALARM_METRICS["place"]
    return [
        Line(f"{alone}: polling {TYPES} lanes", TYPES * RECEIVES_PER_MAPPING, "SQS request"),
        Line(f"{together}: polling {PLACES} lanes", PLACES * RECEIVES_PER_MAPPING, "SQS request"),
        Line(f"{alone}: alarms with `detail` `lanes`", TYPES * ALARM_METRICS["type"], "Alarm"),
        Line(f"{together}: alarms with `detail` `lanes`", alarms, "Alarm"),
    ]


SECTIONS: Mapping[str, Callable[[], tuple[list[Line], bool]]] = {
    "additions": lambda: (additions(), False),
    "on-top": lambda: (on_top(), False),
    "places": lambda: (places(), False),
}
"""Name of the marker in the page → its lines, and True for a table with a sum."""


def markdown(lines: Iterable[Line], *, with_sum: bool) -> str:
    """Return the lines as the Markdown table of ``docs/explanation/costs.md``, with their uses if they have some."""
    lines = list(lines)
    has_use = any(line.use for line in lines)
    rows = [["what", "for", "amount", "a month"], ["---"] * 4]
    rows += [[line.what, line.use, f"{_number(line.amount)} × {line.price}", _shown(line.dollars)] for line in lines]
    if with_sum:
        rows.append(["**Sum**", "", "", f"**{_shown(total(lines))}**"])
    if with_sum and has_use:
        left = after_allowances(lines)
        rows.append(["**Sum after the [allowances](#free-allowances)**", "", "", f"**{_shown(left)}**"])
    return "\n".join(_row(row if has_use else [row[0], *row[2:]]) for row in rows)


def _row(cells: list[str]) -> str:
    if set(cells) == {"---"}:
        return "|" + "---|" * len(cells)
    return "|" + "".join(f" {cell} |" if cell else " |" for cell in cells)


def _shown(dollars: float) -> str:
    return f"${dollars:,.2f}"


def _number(amount: float) -> str:
    return f"{amount:,.0f}" if amount == int(amount) else f"{amount:,.2f}"


def price_table() -> str:
    rows = [f"| {name} | {price} | {price.source} |" for name, price in PRICES.items()]
    note = f"Prices are those of the first tier, looked up on {AS_OF}."
    return "\n".join(["| what | price | source |", "|---|---|---|", *rows, "", note])


def assumed_table() -> str:
    rows = [f"| {name} | {amount.number:g} {amount.unit} | {amount.why} |" for name, amount in ASSUMED.items()]
    return "\n".join(["| what | amount | why |", "|---|---|---|", *rows])


def short_table(stages: Stages) -> str:
    rows = [f"| {what} | {_shown(total(lines))} | {_shown(after_allowances(lines))} |" for what, lines in stages.rows()]
    return "\n".join(["| stage | a month | after the [allowances](#free-allowances) |", "|---|---|---|", *rows])


def allowance_table() -> str:
    rows = [f"| {name} | {amount:,.0f} |" for name, amount in ALLOWANCES.items()]
    return "\n".join(["| what | free in a month |", "|---|---|", *rows])


def rendered(text: str) -> str:
    """The page with all tables computed again, except those of stages."""
    tables = {
        name: markdown(lines, with_sum=with_sum) for name, (lines, with_sum) in ((n, s()) for n, s in SECTIONS.items())
    }
    for name, shown in {
        **tables,
        "prices": price_table(),
        "assumed": assumed_table(),
        "allowances": allowance_table(),
    }.items():
        text = _replaced(text, name, shown)
    return text


def with_stages(text: str, stages: Stages) -> str:
    """The page with the tables of stages."""
    text = _replaced(text, "short", short_table(stages))
    tables = {"idle": stages.own(), **stages.platform, "million": stages.jobs}
    for name, lines in tables.items():
        text = _replaced(text, name, markdown(lines, with_sum=True))
    return text


def _replaced(text: str, name: str, table: str) -> str:
    marked = re.compile(rf"(<!-- costs: {name} -->\n).*?(<!-- end -->)", re.S)
    text, count = marked.subn(lambda match: f"{match[1]}{table}\n{match[2]}", text)
    assert count == 1, f"{PAGE.name} has {count} marks <!-- costs: {name} -->"
    return text


def _of_stage(stage: str, folder: Path = ROOT) -> tuple[list[Line], list[Line]]:
    """Return the lines of a stage of the project in ``folder``, and of a million jobs there."""
    command = [sys.executable, "-m", "joblane.cli.main", "costs", "--stage", stage, "--json"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
    found = json.loads(done.stdout)
    of_stage, of_jobs = (
        [Line(line["what"], line["amount"], line["price"], line["for"]) for line in lines]
        for lines in (found["lines"], found["million_jobs"]["lines"])
    )
    return of_stage, of_jobs


if __name__ == "__main__":
    with TemporaryDirectory() as folder:
        init(Project(Path(folder)))
        found = Stages(*_of_stage("dev", Path(folder)), {name: _of_stage(name)[0] for name in STAGES})
    PAGE.write_text(with_stages(rendered(PAGE.read_text()), found))
