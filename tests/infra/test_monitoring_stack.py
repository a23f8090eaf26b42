"""The alarms, the dashboard and the saved queries, read from the templates of the real tasks and of test tasks.

``prod`` has alarms for each lane, ``dev`` for the whole stage only. For many types see
``test_monitoring_of_many_types.py``.
"""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.partition import part_of
from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.summary import concurrency
from joblane.cdk.watching.alarms import MAX_METRICS, Alarm, longest_gap
from joblane.cdk.watching.of_lanes import alarms_of_part
from joblane.cdk.watching.of_stage import alarms_of_stage
from joblane.cdk.watching.queries import QUERIES
from joblane.discovery import discover
from joblane.queues import Queue
from joblane.schedule import parse
from tests.infra import templates
from tests.infra.conftest import TASKS, RealStages, Synth
from tests.infra.templates import Properties, Template
from tests.pages import ROOT, anchors

PAGE = ROOT / "docs" / "how-to" / "operate.md"
HEADING = re.compile(r" Run: joblane .+\. Runbook: (docs/how-to/operate\.md)#([a-z-]+)\. No data means that ")
MAX_DESCRIPTION = 1024
"""Source: PutMetricAlarm, CloudWatch API reference."""
MAX_RANGE_SECONDS = 86_400


def stack_of(done: Synthesised, name: str) -> Template:
    """A stack with its nested stacks."""
    return done.whole(f"{done.stage.prefix}-{name}")


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


@pytest.fixture(scope="module")
def acme(synth: Synth) -> Template:
    """The template of the test tasks, with its own thresholds."""
    done = synth(monitoring={"email": "on-call@example.com", "archived": 7, "throttles": "off"})
    return stack_of(done, "monitoring")


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


def test_every_alarm_notifies_the_topic_when_it_fires_and_when_it_is_over(watched: Template) -> None:
    ((topic, _),) = templates.of_type(watched, "AWS::SNS::Topic").items()
    for alarm in alarms_of(watched).values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": topic}]
        assert alarm.get("ActionsEnabled", True)


def test_every_alarm_names_a_command_and_a_section_of_the_runbook(watched: Template) -> None:
    known = anchors(PAGE)
    for name, alarm in alarms_of(watched).items():
        found = HEADING.search(alarm["AlarmDescription"])
        assert found, name
        assert found[2] in known, name
        assert len(alarm["AlarmDescription"]) <= MAX_DESCRIPTION


def test_every_heading_below_alarms_has_an_alarm(prod: Template) -> None:
    named = {HEADING.search(entry["AlarmDescription"])[2] for entry in alarms_of(prod).values()}  # type: ignore[index]
    section = PAGE.read_text().split("\n## Alarms\n")[1].split("\n## ")[0]
    assert {
        re.sub(r"[^a-z-]", "", entry.lower().replace(" ", "-")) for entry in re.findall(r"^### (.+)$", section, re.M)
    } == named


def test_missing_data_is_a_fault_for_the_sweep_and_the_health_check_alone(prod: Template) -> None:
    missing = {name.removeprefix("jobs-prod-"): alarm["TreatMissingData"] for name, alarm in alarms_of(prod).items()}
    silent = {name for name, treated in missing.items() if treated == "breaching"}
    assert silent == {"sweep", "health-check"}
    assert set(missing.values()) == {"breaching", "notBreaching"}
    for name in silent:
        description = alarms_of(prod)[f"jobs-prod-{name}"]["AlarmDescription"]
        assert description.endswith("A new stage has no data until its first run.")


def test_no_alarm_exceeds_the_limits_of_cloudwatch(watched: Template) -> None:
    for name, alarm in alarms_of(watched).items():
        found = metrics_of(alarm)
        assert 1 <= len(found) <= MAX_METRICS, name
        assert {metric["Period"] * alarm["EvaluationPeriods"] <= MAX_RANGE_SECONDS for metric in found} == {True}, name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"]


def test_the_metrics_that_alarms_read_are_those_that_the_costs_page_counts(
    prod: Template, functions: list[str]
) -> None:
    lanes = [task for task in discover().values() for _ in task.lanes]
    found = alarms_of(prod)
    parts = {part_of(task.type) for task in lanes}
    timed = {part_of(task.type) for task in lanes if not task.resumable}
    # three for each lane, throttles of the parts and of the other functions, near timeouts, and eight of the stage
    assert len(found) == 3 * len(lanes) + len(parts) + 1 + len(timed) + 8
    metrics = sum(len(metrics_of(alarm)) for alarm in found.values())
    assert metrics == 7 * len(lanes) - sum(task.resumable for task in lanes) + len(functions) + 11


def test_a_small_stage_has_nine_alarms_that_read_twelve_metrics(small: Template) -> None:
    found = alarms_of(small)
    names = {name.removeprefix("jobs-dev-") for name in found}
    of_sweep = {"moved-by-sqs", "waiting", "missed-tick", "stuck-lease", "old-snapshot", "sweep"}
    assert names == {"archived", "throttles", "refused", *of_sweep}
    assert sum(len(metrics_of(alarm)) for alarm in found.values()) == 12
    assert templates.of_type(small, "AWS::KMS::Key") == {}


# --- Each alarm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", discover().values(), ids=lambda task: task.type)
def test_each_type_has_alarms_for_archived_failing_and_waiting_tasks(task: Any, prod: Template) -> None:
    found = alarms_of(prod)
    for queue in task.lanes:
        of_lane = {"task_type": task.type, "queue": queue}
        lane = f"{queue}-{task.slug}"
        archived, failing, waiting = (found[f"jobs-prod-{name}-{lane}"] for name in ("archived", "failing", "waiting"))
        assert (archived["MetricName"], archived["Statistic"], archived["Threshold"]) == ("Archived", "Sum", 1)
        assert (waiting["MetricName"], waiting["ExtendedStatistic"]) == ("WaitMs", "p95")
        assert waiting["Threshold"] == task.target_wait.total_seconds() * 1000
        assert [dimensions(archived), dimensions(waiting)] == [of_lane, of_lane]
        assert {entry["MetricName"]: dimensions(entry) for entry in metrics_of(failing)} == {
            "Started": of_lane,
            "Retried": of_lane,
            "Archived": of_lane,
            "Errors": {"FunctionName": f"jobs-prod-{task.slug}"},
        }
        assert {entry["Namespace"] for entry in [archived, waiting]} == {"Joblane/jobs-prod"}


def test_a_failure_rate_counts_only_above_a_number_of_runs(acme: Template) -> None:
    (expression,) = (
        entry["Expression"]
        for entry in alarms_of(acme)["acme-failing-critical-order-ship"]["Metrics"]
        if "Expression" in entry
    )
    assert expression == "IF(started + errors >= 10, 100 * (retried + archived + errors) / (started + errors), 0)"


def test_a_small_stage_counts_archived_tasks_and_throttles_without_dimensions(small: Template) -> None:
    archived, throttles = (alarms_of(small)[f"jobs-dev-{name}"] for name in ("archived", "throttles"))
    assert (archived["Namespace"], archived["MetricName"]) == ("Joblane/jobs-dev", "Archived")
    assert (throttles["Namespace"], throttles["MetricName"]) == ("AWS/Lambda", "Throttles")
    assert [dimensions(archived), dimensions(throttles)] == [{}, {}]
    assert "another stage" in throttles["AlarmDescription"]  # it counts all functions of the account


def test_runs_are_compared_with_the_declared_timeout(acme: Template) -> None:
    tasks, watched = discover(TASKS, times={}), []
    for name, alarm in alarms_of(acme).items():
        if not name.startswith("acme-near-timeout-"):
            continue
        (expression,) = (
            [entry["Expression"] for entry in alarm["Metrics"] if "Expression" in entry] if "Metrics" in alarm else [""]
        )
        ids = {entry["Id"]: entry["MetricStat"]["Metric"] for entry in alarm["Metrics"] if "MetricStat" in entry}
        of_ids = re.findall(r"100 \* (d\d+) / (\d+)", expression)
        assert len(of_ids) == len(ids) == expression.count("100 ")
        for id_, timeout_ms in of_ids:
            type_ = dimensions(ids[id_])["task_type"]
            watched.append(type_)
            assert timedelta(milliseconds=int(timeout_ms)) == tasks[type_].timeout
        assert alarm["Threshold"] == 80
    assert sorted(watched) == sorted(task.type for task in tasks.values() for _ in task.lanes if not task.resumable)


def test_every_function_is_watched_for_throttles(prod: Template, functions: list[str]) -> None:
    throttles = [alarm for name, alarm in alarms_of(prod).items() if "throttles" in name]
    watched = [dimensions(metric)["FunctionName"] for alarm in throttles for metric in metrics_of(alarm)]
    assert sorted(watched) == functions


def test_the_dead_letters_of_front_doors_and_schedules_have_an_alarm(acme: Template) -> None:
    metrics = metrics_of(alarms_of(acme)["acme-refused"])
    assert {dimensions(metric)["QueueName"] for metric in metrics} == {
        *(f"acme-{queue}-dlq" for queue in Queue),
        "acme-cron-dlq",
    }


def test_the_sweep_is_missed_after_four_intervals_of_its_schedule(watched: Template) -> None:
    (alarm,) = (alarm for name, alarm in alarms_of(watched).items() if re.fullmatch(r"jobs-[a-z]+-sweep", name))
    assert (alarm["MetricName"], alarm["Period"], alarm["EvaluationPeriods"]) == ("Completed", 300, 4)
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert dimensions(alarm) == {"task_type": "jobs:sweep", "queue": "low"}


def test_an_hourly_sweep_is_missed_after_four_hours_and_a_disabled_sweep_never(synth: Synth) -> None:
    hourly = stack_of(synth(monitoring={"email": "off"}, schedules={"jobs:sweep": "@hourly"}), "monitoring")
    assert alarms_of(hourly)["acme-sweep"]["Period"] == 3600
    off = stack_of(synth(monitoring={"email": "off"}, schedules={"jobs:sweep": "off"}), "monitoring")
    assert {"acme-sweep", "acme-stuck-lease", "acme-missed-tick", "acme-old-snapshot"} & set(alarms_of(off)) == set()


def test_an_old_snapshot_has_an_alarm_with_a_threshold_in_minutes(synth: Synth, watched: Template) -> None:
    [alarm] = (alarm for name, alarm in alarms_of(watched).items() if name.endswith("-old-snapshot"))
    assert (alarm["MetricName"], alarm["Statistic"], alarm["Threshold"]) == ("OldestSnapshotSeconds", "Maximum", 1800)
    assert dimensions(alarm) == {"task_type": "jobs:sweep"}
    longer = stack_of(synth(monitoring={"email": "off", "old_snapshot_minutes": 120}), "monitoring")
    assert alarms_of(longer)["acme-old-snapshot"]["Threshold"] == 7200
    assert "for 120 minutes" in alarms_of(longer)["acme-old-snapshot"]["AlarmDescription"]


def test_a_stage_sets_thresholds_and_leaves_alarms_out(acme: Template) -> None:
    found = alarms_of(acme)
    assert found["acme-archived-critical-order-ship"]["Threshold"] == 7
    assert [name for name in found if "throttles" in name] == []


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


def test_a_stage_without_monitoring_has_no_such_stack(dev: Any, local: Any) -> None:
    assert [name for name in {**dev.templates, **local.templates} if name.endswith("-monitoring")] == []


# --- Topic ---------------------------------------------------------------------------------------------------------


def test_the_topic_is_encrypted_and_accepts_only_its_own_alarms_over_tls(acme: Template) -> None:
    ((topic, properties),) = templates.of_type(acme, "AWS::SNS::Topic").items()
    ((key, key_properties),) = templates.of_type(acme, "AWS::KMS::Key").items()
    assert properties["TopicName"] == "acme-alarms"
    assert properties["KmsMasterKeyId"] == {"Fn::GetAtt": [key, "Arn"]}
    ((_, policy),) = templates.of_type(acme, "AWS::SNS::TopicPolicy").items()
    deny, allow = policy["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    for statement in (allow, key_properties["KeyPolicy"]["Statement"][1]):
        assert statement["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
        assert statement["Condition"]["StringEquals"] == {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}
        source = templates.target(acme, statement["Condition"]["ArnLike"]["aws:SourceArn"])
        assert source.endswith(":alarm:acme-*")
    assert (allow["Action"], allow["Resource"]) == ("sns:Publish", {"Ref": topic})
    assert key_properties["EnableKeyRotation"] is True


def test_a_topic_without_a_key_is_closed_to_all_but_its_own_alarms_too(small: Template) -> None:
    ((_, properties),) = templates.of_type(small, "AWS::SNS::Topic").items()
    assert "KmsMasterKeyId" not in properties
    ((_, policy),) = templates.of_type(small, "AWS::SNS::TopicPolicy").items()
    deny, allow = policy["PolicyDocument"]["Statement"]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert allow["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert set(allow["Condition"]) == {"StringEquals", "ArnLike"}


def test_a_mail_is_sent_if_the_stage_names_an_address(acme: Template, small: Template) -> None:
    ((_, subscription),) = templates.of_type(acme, "AWS::SNS::Subscription").items()
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "on-call@example.com")
    assert templates.of_type(small, "AWS::SNS::Subscription") == {}


def test_a_synth_says_that_nobody_is_notified(real_stages: RealStages) -> None:
    line = "  alarms: nobody is notified; set monitoring.email"
    assert line in concurrency(real_stages("dev").jobs)
    assert line not in concurrency(real_stages("prod").jobs)


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
    return [metric for widget in widgets for metric in widget["properties"].get("metrics", [])]


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
    assert {metric[1] for metric in shown} >= {"Overdue", "Archived", "Throttles", "WaitMs", "Retried", "Completed"}
    assert [metric for metric in shown if "FunctionName" in metric] == []
    text = dashboard_of(small)["widgets"][0]["properties"]["markdown"]
    assert "50 at most: " in text
    assert "functions' errors" in text


def test_the_saved_queries_search_the_logs_of_every_function(prod: Template, functions: list[str]) -> None:
    found = templates.of_type(prod, "AWS::Logs::QueryDefinition").values()
    assert {entry["Name"] for entry in found} == {f"jobs-prod/{name}" for name in QUERIES}
    for entry in found:
        assert sorted(entry["LogGroupNames"]) == [f"/aws/lambda/{function}" for function in functions]


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_every_log_group_has_a_retention(stage: str, real_stages: RealStages) -> None:
    groups = [
        (name, group)
        for template in real_stages(stage).templates.values()
        for name, group in templates.of_type(template, "AWS::Logs::LogGroup").items()
    ]
    assert groups
    assert [name for name, group in groups if not group.get("RetentionInDays")] == []


def test_every_function_writes_to_a_log_group_of_the_stack(real_stages: RealStages) -> None:
    for template in real_stages("prod").templates.values():
        groups = templates.of_type(template, "AWS::Logs::LogGroup")
        for name, function in templates.functions(template).items():
            group = function.get("LoggingConfig", {}).get("LogGroup")
            assert group, name
            assert templates.target(template, group) in groups


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
