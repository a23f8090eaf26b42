"""The alarms, the dashboard and the saved queries, read from the templates of the real tasks and of test tasks.

``prod`` has alarms for each lane, ``dev`` for the whole stage only. For many types see
``test_monitoring_of_many_types.py``.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from joblane.cdk.app import Synthesised, concurrency
from joblane.cdk.constructs import nat_instance
from joblane.cdk.constructs.nested_stacks import part_of
from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.stage import Stage
from joblane.cdk.watching.alarms import MAX_DESCRIPTION, MAX_METRICS, Alarm, Links, Topic, longest_gap
from joblane.cdk.watching.dashboard import DEPLOYS, FINDINGS
from joblane.cdk.watching.database import alarms_of_database
from joblane.cdk.watching.queries import QUERIES
from joblane.cdk.watching.table import alarms_of_part, alarms_of_stage
from joblane.inspector.durations import duration
from joblane.names import Queue
from joblane.quotas import MAX_DELAY_SECONDS
from joblane.tasks.discovery import discover
from joblane.tasks.schedule import parse
from joblane.tasks.schedule_overrides import apply_all, minutes_of, with_sweep
from tests.builders import alarm_mail
from tests.infra import templates
from tests.infra.conftest import RUNBOOK, SENDERS, RealStages, Synth
from tests.infra.templates import Properties, Template
from tests.pages import ROOT, anchors
from tests.samples import sample_one
from tests.unit.test_docs import problems

PAGE = ROOT / "docs" / "how-to" / "operate.md"
TEXT = re.compile(
    r"(?P<says>[^\n]+)\nRun: (?P<command>joblane --stage [a-z]+ [^\n]+)\n(Page: (?P<page>https://[^\n]+)\n)?"
    r"Runbook: (?P<runbook>[^\n#]+)#(?P<heading>[a-z-]+)\nNo data means that [^\n]+"
)
PYTHON_TIME = re.compile(r"\d:\d\d")
EVENTS = {"archived", "moved-by-sqs", "refused", "missed-tick", "throttles", "near-timeout"}
EVENTS |= {"events-refused", "events-dropped"}
"""Alarms that end by themselves while nothing is repaired."""
OF_DATABASE = {"database-capacity", "database-connections", "database-memory"}
OF_SWEEP = {"sweep", "sweep-fails", "sweep-lane"}
URGENT = {
    "database-storage",
    "moved-by-sqs",
    "waiting-critical",
    "missed-tick",
    "stuck-lease",
    "lowered-limit",
    "health-check",
} | OF_SWEEP
SMALL = alarms_of_stage(Monitoring(), discover(), prefix="jobs", functions=[])
MAX_RANGE_SECONDS, LONGEST_RANGE_SECONDS = 86_400, 604_800
"""Limits of all periods of an alarm together: with a period below an hour, and with a longer one."""


def stack_of(done: Synthesised, name: str) -> Template:
    """A stack with its nested stacks."""
    return done.whole(f"{done.stage.prefix}-{name}")


def rds_stage(**database: Any) -> Stage:
    given = {"kind": "rds", **database}
    return Stage.model_validate({"name": "dev", "prefix": "acme", "network": {"kind": "new"}, "database": given})


@pytest.fixture(scope="module")
def prod(real_stages: RealStages) -> Template:
    return stack_of(real_stages("prod"), "monitoring")


@pytest.fixture(scope="module")
def small(real_stages: RealStages) -> Template:
    return stack_of(real_stages("dev"), "monitoring")


@pytest.fixture(scope="module")
def functions(real_stages: RealStages) -> list[str]:
    """The functions of ``prod``."""
    return sorted(templates.functions(stack_of(real_stages("prod"), "jobs")))


@pytest.fixture(params=["small", "prod"])
def watched(request: pytest.FixtureRequest) -> Template:
    template: Template = request.getfixturevalue(request.param)
    return template


def alarms_of(template: Template) -> dict[str, Properties]:
    return {entry["AlarmName"]: entry for entry in templates.of_type(template, "AWS::CloudWatch::Alarm").values()}


def metrics_of(alarm: Properties) -> list[dict[str, Any]]:
    """All metrics that an alarm reads, in one list."""
    if "Metrics" not in alarm:
        return [dict(alarm)]
    return [entry["MetricStat"]["Metric"] | entry["MetricStat"] for entry in alarm["Metrics"] if "MetricStat" in entry]


def dimensions(metric: Properties) -> dict[str, str]:
    return {entry["Name"]: entry["Value"] for entry in metric.get("Dimensions", [])}


# --- Every alarm ---------------------------------------------------------------------------------------------------


def problems_of(name: str, alarm: Properties, topics: dict[str, str], known: set[str]) -> Iterator[str]:
    """Yield what is wrong with an alarm. ``name``: without the prefix. ``topics``: logical id → ``urgent``, ``later``.
    ``known``: the anchors of the runbook."""
    description = text_of(alarm["AlarmDescription"])
    found = TEXT.fullmatch(description)
    kind = next((event for event in EVENTS if name == event or name.startswith(f"{event}-")), "")
    topic = "urgent" if name in URGENT or name.startswith("waiting-critical-") else "later"
    notified = {key: [topics[each["Ref"]] for each in alarm.get(key, ())] for key in ("AlarmActions", "OKActions")}
    if notified["AlarmActions"] != [topic]:
        yield f"{name} notifies {notified['AlarmActions']}, not {topic}"
    if notified["OKActions"] != ([] if kind else [topic]):
        yield f"{name} says {notified['OKActions']} that it is over"
    if not alarm.get("ActionsEnabled", True):
        yield f"{name} does nothing"
    if len(description) > MAX_DESCRIPTION:
        yield f"{name}: the text has {len(description)} characters"
    if PYTHON_TIME.search(description):
        yield f"{name}: a time as Python writes it"
    if found is None:
        yield f"{name}: no command and section: {description}"
        return
    if found["heading"] not in known:
        yield f"{name}: the runbook has no {found['heading']}"
    yield from (f"{name}: {each}" for each in problems(shlex.split(found["command"])))


def text_of(value: Any) -> str:
    """A text with ``…`` for values from AWS."""
    parts = value["Fn::Join"][1] if isinstance(value, dict) else [value]
    return "".join(part if isinstance(part, str) else "…" for part in parts)


def topics_of(template: Template) -> dict[str, str]:
    """Logical id of each topic → the end of its name."""
    return {
        logical_id: entry["TopicName"].rpartition("-")[2]
        for logical_id, entry in templates.of_type(template, "AWS::SNS::Topic").items()
    }


def all_problems(template: Template, prefix: str) -> list[str]:
    topics, known = topics_of(template), anchors(PAGE)
    return [
        problem
        for name, alarm in alarms_of(template).items()
        for problem in problems_of(name.removeprefix(f"{prefix}-"), alarm, topics, known)
    ]


@pytest.mark.parametrize("every", ["watched", "events", "rds", "real dev", "real prod"], indirect=True)
def test_every_alarm_has_a_topic_a_command_that_exists_and_a_section(every: Synthesised) -> None:
    assert all_problems(stack_of(every, "monitoring"), every.stage.prefix) == []


@pytest.mark.parametrize(
    ("name", "fields", "problem"),
    [
        ("refused", {"is_state": True}, "refused says ['later'] that it is over"),
        ("sweep", {"is_state": False}, "sweep says [] that it is over"),
        ("missed-tick", {"topic": Topic.LATER}, "missed-tick notifies ['later'], not urgent"),
        ("sweep", {"heading": "a-heading"}, "sweep: the runbook has no a-heading"),
        ("sweep", {"run": "drop"}, "sweep: joblane has no command drop"),
        ("sweep", {"says": "None for 0:20:00."}, "sweep: a time as Python writes it"),
        ("sweep", {"says": "x" * MAX_DESCRIPTION}, "sweep: the text has 1198 characters"),
    ],
)
def test_a_wrong_alarm_is_found(name: str, fields: dict[str, Any], problem: str) -> None:
    topics = {topic.capitalize(): topic.value for topic in Topic}

    def found(alarm: Alarm) -> list[str]:
        actions = [{"Ref": alarm.topic.capitalize()}]
        done = {"AlarmActions": actions, "OKActions": actions if alarm.is_state else []}
        properties = {**done, "AlarmDescription": alarm.description(Links("prod"))}
        return list(problems_of(name, properties, topics, anchors(PAGE)))

    [alarm] = (each for each in SMALL if each.name == name)
    assert found(alarm) == []
    assert found(replace(alarm, **fields)) == [problem]


def test_the_mail_of_the_operating_tests_is_that_of_the_alarm() -> None:
    alarms = alarms_of_part(0, [sample_one], Monitoring(), "jobs")
    [alarm] = [alarm for alarm in alarms if alarm.name.startswith("archived-")]
    assert alarm.description(Links("prod")).startswith(alarm_mail.ARCHIVED)


def test_every_heading_below_alarms_has_an_alarm(prod: Template) -> None:
    named = {TEXT.fullmatch(entry["AlarmDescription"])["heading"] for entry in alarms_of(prod).values()}  # type: ignore[index]
    tasks = discover(SENDERS, times={})
    alarms = alarms_of_stage(Monitoring(), tasks, prefix="acme", functions=[], webhook_bus="acme-events")
    alarms += alarms_of_database(Monitoring(), rds_stage())
    named |= {*(alarm.heading for alarm in alarms), nat_instance.HEADING}
    section = PAGE.read_text().split("\n## Alarms\n")[1].split("\n## ")[0]
    assert {
        re.sub(r"[^a-z-]", "", entry.lower().replace(" ", "-")) for entry in re.findall(r"^### (.+)$", section, re.M)
    } == named


def test_every_section_of_an_alarm_says_what_customers_feel_and_what_is_safe() -> None:
    section = PAGE.read_text().split("\n## Alarms\n")[1].split("\n## ")[0]
    for text in section.split("\n### ")[1:]:
        heading = text.partition("\n")[0]
        assert text.count("\n**Meaning.**") == text.count("\n**See it.**") == text.count("\n**Do.**") == 1, heading
        parts = re.findall(r"^- \*\*(.+?):\*\* \S", text, re.M)
        assert parts[:2] == ["Customers", "Normal"], heading
        assert parts[2:] in ([], ["Safe to repeat"], ["Needs"], ["Safe to repeat", "Needs"]), heading
    assert "its commands are safe to repeat, and need the permissions view and operate" in " ".join(section.split())


def test_an_operator_without_a_database_needs_no_sql() -> None:
    before, _, last = PAGE.read_text().partition("\n## Without the command line\n")
    sections = [text for text in before.split("\n## ") if "```sql" in text]
    assert [text.partition("\n")[0] for text in sections] == ["The database is unavailable"]
    assert "`joblane doctor` names the holder of a lock" in sections[0]
    assert "a login to the database" in last


def test_missing_data_is_a_fault_for_the_sweep_and_the_health_check_alone(prod: Template) -> None:
    missing = {name.removeprefix("jobs-prod-"): alarm["TreatMissingData"] for name, alarm in alarms_of(prod).items()}
    silent = {name for name, treated in missing.items() if treated == "breaching"}
    assert silent == {"sweep", "health-check"}


def test_no_alarm_exceeds_the_limits_of_cloudwatch(watched: Template) -> None:
    for name, alarm in alarms_of(watched).items():
        found = metrics_of(alarm)
        assert 1 <= len(found) <= MAX_METRICS, name
        for metric in found:
            most = MAX_RANGE_SECONDS if metric["Period"] < 3600 else LONGEST_RANGE_SECONDS
            assert metric["Period"] * alarm["EvaluationPeriods"] <= most, name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"]


def test_the_metrics_that_alarms_read_are_those_that_the_costs_page_counts(
    prod: Template, functions: list[str]
) -> None:
    lanes = [task for task in discover().values() for _ in task.lanes]
    found = alarms_of(prod)
    parts = {part_of(task.type) for task in lanes}
    timed = {part_of(task.type) for task in lanes if not task.resumable}
    # three for each lane, throttles of the parts and of the other functions, near timeouts, and 17 of the stage
    assert len(found) == 3 * len(lanes) + len(parts) + 1 + len(timed) + 17
    metrics = sum(len(metrics_of(alarm)) for alarm in found.values())
    assert metrics == 7 * len(lanes) - sum(task.resumable for task in lanes) + len(functions) + 23


def test_a_small_stage_has_18_alarms_that_read_25_metrics(small: Template) -> None:
    found = alarms_of(small)
    names = {name.removeprefix("jobs-dev-") for name in found}
    found_by_sweep = {
        "moved-by-sqs",
        "waiting",
        "waiting-critical",
        "missed-tick",
        "stuck-lease",
        "old-snapshot",
        "lowered-limit",
    }
    of_events = {"events-late", "events-dropped"}
    assert names == {"archived", "throttles", "refused", *found_by_sweep, *OF_SWEEP, *of_events, *OF_DATABASE}
    assert sum(len(metrics_of(alarm)) for alarm in found.values()) == 25
    assert templates.of_type(small, "AWS::KMS::Key") == {}


# --- Each alarm ----------------------------------------------------------------------------------------------------


def test_every_function_is_watched_for_throttles(prod: Template, functions: list[str]) -> None:
    throttles = [alarm for name, alarm in alarms_of(prod).items() if "throttles" in name]
    watched = [dimensions(metric)["FunctionName"] for alarm in throttles for metric in metrics_of(alarm)]
    assert sorted(watched) == functions


def test_the_lane_of_the_sweep_may_have_a_planned_sweep_and_the_message_of_a_run() -> None:
    [alarm] = (each for each in SMALL if each.name == "sweep-lane")
    assert float(alarm.threshold) > MAX_DELAY_SECONDS + discover()["jobs:sweep"].timeout.total_seconds()


@pytest.mark.parametrize(
    ("failed", "errors", "duties", "completed", "fires"),
    [
        (3, 0, 0, 0, True),
        (0, 1, 0, 0, True),
        (1, 1, 0, 0, True),
        (3, 0, 0, 1, False),
        (0, 0, 0, 1, False),
        (0, 0, 0, 0, False),
        (0, 0, 1, 3, True),
        (2, 0, 1, 3, True),
    ],
)
def test_one_sweep_that_completes_ends_the_alarm_unless_its_duties_fail(
    failed: int, errors: int, duties: int, completed: int, fires: bool
) -> None:
    [alarm] = (each for each in SMALL if each.name == "sweep-fails")
    values = {"failed": failed, "errors": errors, "duties": duties, "completed": completed}
    value = eval(alarm.expression, {"IF": lambda is_true, yes, no: yes if is_true else no, **values})
    assert (value >= alarm.threshold) is fires


@pytest.mark.parametrize(
    ("sweep", "period", "periods"),
    [
        ("1 minute", 300, 4),
        ("5 minutes", 300, 4),
        ("30 minutes", 300, 18),
        ("1 hour", 300, 24),
        ("6 hours", 900, 28),
        ("12 hours", 3600, 13),
        ("24 hours", 3600, 25),
    ],
)
def test_every_interval_of_the_sweep_has_its_silence(sweep: str, period: int, periods: int) -> None:
    tasks = apply_all(discover(), with_sweep({}, minutes_of(sweep)))
    alarms = alarms_of_stage(Monitoring(), tasks, prefix="jobs", functions=[])
    [alarm] = (each for each in alarms if each.name == "sweep")
    assert (alarm.period.total_seconds(), alarm.periods, alarm.rings_after) == (period, periods, periods)
    # later than the interval, by an hour at most
    assert timedelta(0) < alarm.period * alarm.periods - timedelta(minutes=minutes_of(sweep)) <= timedelta(hours=1)


@pytest.mark.parametrize("detail", ["lanes", "stage"])
def test_each_threshold_that_is_off_removes_its_alarms(detail: Any) -> None:
    tasks = discover()

    def all_of(monitoring: Monitoring) -> list[Alarm]:
        of_part = alarms_of_part(1, list(tasks.values()), monitoring, "jobs")
        return of_part + alarms_of_stage(monitoring, tasks, prefix="jobs", functions=["jobs-router"])

    found = all_of(Monitoring(detail=detail))
    assert len({alarm.name for alarm in found}) == len(found)
    nothing: dict[str, Any] = {
        name: "off" for name, field in Monitoring.model_fields.items() if "off" in str(field.annotation)
    }
    nothing |= {"detail": detail, "waiting": False}
    assert all_of(Monitoring.model_construct(**nothing)) == []


# --- Topic ---------------------------------------------------------------------------------------------------------


def test_a_synth_says_that_nobody_is_notified(real_stages: RealStages) -> None:
    line = "  alarms: nobody is notified; set monitoring.email"
    assert line in concurrency(real_stages("dev").jobs)
    assert line not in concurrency(real_stages("prod").jobs)


def test_a_synth_says_who_cannot_wake_a_planned_sweep(real_stages: RealStages) -> None:
    jobs = real_stages("dev").jobs
    line = "  sweep: planned, and every 6 hours; programs that enqueue by SQL alone cannot wake it and need "
    assert line in concurrency(jobs)
    often: Any = SimpleNamespace(**vars(jobs) | {"stage": jobs.stage.model_copy(update={"sweep": "5 minutes"})})
    often.variables = jobs.variables
    assert "  sweep: " not in concurrency(often)


# --- Dashboard and queries -----------------------------------------------------------------------------------------


def dashboard_of(template: Template) -> Properties:
    """The body of the dashboard, with ``…`` for values from AWS."""
    ((_, dashboard),) = templates.of_type(template, "AWS::CloudWatch::Dashboard").items()
    body = dashboard["DashboardBody"]
    parts = body["Fn::Join"][1] if isinstance(body, dict) else [body]
    found: Properties = json.loads("".join(part if isinstance(part, str) else "…" for part in parts))
    return found


def metrics_shown(template: Template) -> list[Any]:
    widgets = dashboard_of(template)["widgets"]
    found = [metric for widget in widgets for metric in widget["properties"].get("metrics", [])]
    return [metric for metric in found if not isinstance(metric[0], dict)]  # an expression reads other metrics


def note_of(template: Template) -> str:
    (text,) = (each["properties"]["markdown"] for each in dashboard_of(template)["widgets"] if each["type"] == "text")
    return str(text)


def test_the_dashboard_shows_every_lane_function_and_alarm(
    prod: Template, functions: list[str], real_stages: RealStages
) -> None:
    text = json.dumps(dashboard_of(prod))
    front_doors = {f"jobs-prod-{queue}" for queue in Queue}  # their dead-letter queues are shown
    for name in {*templates.queues(stack_of(real_stages("prod"), "jobs")), *functions} - front_doors:
        assert f'"{name}"' in text
    for metric in ("Started", "Completed", "Retried", "Archived", "WaitMs", "DurationMs", "Throttles", "Errors"):
        assert f'"{metric}"' in text
    (tiles,) = (widget for widget in dashboard_of(prod)["widgets"] if widget["type"] == "alarm")
    assert {arn.rpartition(":")[2] for arn in tiles["properties"]["alarms"]} == set(alarms_of(prod))
    ((_, dashboard),) = templates.of_type(prod, "AWS::CloudWatch::Dashboard").items()
    assert dashboard["DashboardName"] == "jobs-prod"


def test_a_small_stages_dashboard_has_fifty_metrics_and_names_what_it_leaves_out(small: Template) -> None:
    shown = metrics_shown(small)
    assert 40 < len(shown) <= 50
    # waits of each lane fit, and numbers of each function do not
    assert {metric[1] for metric in shown} >= {"Overdue", "Archived", "Throttles", "OldestDueSeconds", "WaitMs", "Runs"}
    assert [metric for metric in shown if "FunctionName" in metric] == []
    assert "50 at most: " in note_of(small)
    assert "functions' errors" in note_of(small)


def test_the_dashboard_has_percentiles_targets_limits_and_deploys(prod: Template, synth: Synth) -> None:
    widgets = dashboard_of(prod)["widgets"]
    titled = {each["properties"]["title"]: each["properties"] for each in widgets if "title" in each["properties"]}
    for percentile in ("p50", "p95", "p99"):
        for name in ("wait", "duration"):
            statistics = {metric[-1]["stat"] for metric in titled[f"default: {name} {percentile}, ms"]["metrics"]}
            assert statistics == {percentile}
    lines = {
        title: {each["label"]: each["value"] for each in graph["annotations"]["horizontal"]}
        for title, graph in titled.items()
        if graph.get("annotations")
    }
    assert lines["default: wait p99, ms"] == lines["default: wait p50, ms"]
    assert "target_wait 1h" in lines["Oldest due task, s"]
    for label, value in lines["Oldest due task, s"].items():
        assert duration(label.removeprefix("target_wait ")).total_seconds() == value
    assert "limit 2: " in str(lines["Functions: concurrent executions"])
    logs = {each["properties"]["title"]: each["properties"]["query"] for each in widgets if each["type"] == "log"}
    assert logs["Deploys, newest first"].startswith("SOURCE '/aws/lambda/jobs-prod-migrate' | filter ")
    assert logs["Found by the sweep, newest first"].startswith("SOURCE '/aws/lambda/jobs-prod-jobs-sweep' | filter ")
    assert "`joblane --stage prod dead --sort last`" in note_of(prod)
    assert f"[button:Runbook]({RUNBOOK}#stop-the-harm-first)" in note_of(stack_of(synth.app("watched"), "monitoring"))
    assert "stop-the-harm-first" in anchors(PAGE)
    for command in re.findall(r"`(joblane .+?)`", note_of(prod)):
        assert list(problems(shlex.split(command))) == []


def test_the_saved_queries_search_the_logs_of_every_function(prod: Template, functions: list[str]) -> None:
    found = templates.of_type(prod, "AWS::Logs::QueryDefinition").values()
    assert {entry["Name"] for entry in found} == {f"jobs-prod/{name}" for name in QUERIES}
    for entry in found:
        assert sorted(entry["LogGroupNames"]) == [f"/aws/lambda/{function}" for function in functions]
    assert {name for name, text in QUERIES.items() if "task_id" in text} >= {"Slowest runs", "Failures by tenant"}
    assert [name for name, text in QUERIES.items() if "max(@timestamp)" in text] == []  # shown in milliseconds
    for text in (*QUERIES.values(), DEPLOYS, FINDINGS):
        for fields in re.findall(r"^(?:\| )?fields (.+(?:\n {4}.+)*)", text, re.M):
            assert {"by", "as", "in", "like", "and", "or", "not"}.isdisjoint(re.split(r",\s*", fields))  # keywords


@pytest.mark.parametrize(
    "line",
    [
        "2026-11-27T10:00:00Z 1b2c Task timed out after 60.00 seconds",
        "Runtime.HandlerNotFound: Handler 'handler' missing on module",
        "Runtime.UserCodeSyntaxError: Syntax error in module",
        "RequestId: 1b2c Error: Runtime exited with error: signal: terminated",
        "RequestId: 1b2c Error: Runtime exited with error: signal: killed",
        "Runtime.ExitError",
    ],
)
def test_the_query_of_lost_runs_finds_each_kind(line: str) -> None:
    patterns = re.findall(r"like /(.+)/", QUERIES["Lost runs"])
    assert any(re.search(pattern, line) for pattern in patterns)


# --- How often something comes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("times", "gap"),
    [
        (["*/5 * * * *"], timedelta(minutes=5)),
        (["0 9-17 * * *"], timedelta(hours=16)),
        (["0 2 * * *", "0 14 * * *"], timedelta(hours=12)),
        (["0 3 * * 1-5"], timedelta(days=3)),
        ([], None),
    ],
)
def test_the_longest_gap_of_a_schedule(times: list[str], gap: timedelta | None) -> None:
    class Periodic:
        schedules = tuple(parse(text) for text in times)

    assert longest_gap(Periodic()) == gap  # type: ignore[arg-type]
