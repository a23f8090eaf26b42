"""The alarms, the dashboard and the saved queries, read from the templates of the real tasks and of test tasks."""

from __future__ import annotations

import json
import math
import re
from datetime import timedelta
from typing import Any

import pytest

from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.watching import alarms
from joblane.cdk.watching.alarms import MAX_METRICS, longest_gap
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


@pytest.fixture(scope="module", params=["dev", "prod"])
def watched(request: pytest.FixtureRequest, real_stages: RealStages) -> Template:
    return real_stages(request.param).templates[f"jobs-{request.param}-monitoring"]


@pytest.fixture(scope="module")
def acme(synth: Synth) -> Template:
    """The template of the test tasks, with its own thresholds."""
    done = synth(monitoring={"email": "on-call@example.com", "archived": 7, "throttles": "off"})
    return done.templates["acme-monitoring"]


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


def test_every_heading_below_alarms_has_an_alarm(watched: Template) -> None:
    named = {HEADING.search(entry["AlarmDescription"])[2] for entry in alarms_of(watched).values()}  # type: ignore[index]
    section = PAGE.read_text().split("\n## Alarms\n")[1].split("\n## ")[0]
    assert {
        re.sub(r"[^a-z-]", "", entry.lower().replace(" ", "-")) for entry in re.findall(r"^### (.+)$", section, re.M)
    } == named


def test_missing_data_is_a_fault_for_the_sweep_and_the_health_check_alone(watched: Template) -> None:
    missing = {name.split("-", 2)[2]: entry["TreatMissingData"] for name, entry in alarms_of(watched).items()}
    assert {name for name, treated in missing.items() if treated == "breaching"} == {"sweep", "health-check"}
    assert set(missing.values()) == {"breaching", "notBreaching"}


def test_no_alarm_exceeds_the_limits_of_cloudwatch(watched: Template) -> None:
    for name, alarm in alarms_of(watched).items():
        found = metrics_of(alarm)
        assert 1 <= len(found) <= MAX_METRICS, name
        assert {metric["Period"] * alarm["EvaluationPeriods"] <= MAX_RANGE_SECONDS for metric in found} == {True}, name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"]


def test_the_number_of_alarms_and_metrics_is_the_one_that_the_costs_assume(
    real_stages: RealStages,
) -> None:
    made, jobs = real_stages("prod").templates, real_stages("prod").whole("jobs-prod-jobs")
    lanes = [task for task in discover().values() for _ in task.lanes]
    functions = len(templates.functions(jobs))
    found = alarms_of(made["jobs-prod-monitoring"])
    in_tens = math.ceil(functions / 10) + math.ceil(sum(not task.resumable for task in lanes) / 10)
    assert len(found) == 3 * len(lanes) + in_tens + 7
    metrics = sum(len(metrics_of(alarm)) for alarm in found.values())
    assert metrics == 7 * len(lanes) - sum(task.resumable for task in lanes) + functions + 10


# --- Each alarm ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", discover().values(), ids=lambda task: task.type)
def test_each_type_has_alarms_for_archived_failing_and_waiting_tasks(task: Any, real_stages: RealStages) -> None:
    found = alarms_of(real_stages("prod").templates["jobs-prod-monitoring"])
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


def test_runs_are_compared_with_the_declared_timeout(acme: Template) -> None:
    alarm = alarms_of(acme)["acme-near-timeout-1"]
    ids = {entry["Id"]: entry["MetricStat"]["Metric"] for entry in alarm["Metrics"] if "MetricStat" in entry}
    (expression,) = (entry["Expression"] for entry in alarm["Metrics"] if "Expression" in entry)
    tasks = discover(TASKS, times={})
    for id_, timeout_ms in re.findall(r"100 \* (d\d+) / (\d+)", expression):
        type_ = dimensions(ids[id_])["task_type"]
        assert timedelta(milliseconds=int(timeout_ms)) == tasks[type_].timeout
    assert (
        len(ids)
        == len(re.findall("100 ", expression))
        == sum(len(task.lanes) for task in tasks.values() if not task.resumable)
    )
    assert alarm["Threshold"] == 80


def test_every_function_is_watched_for_throttles(real_stages: RealStages) -> None:
    made, jobs = real_stages("prod").templates, real_stages("prod").whole("jobs-prod-jobs")
    throttles = [alarm for name, alarm in alarms_of(made["jobs-prod-monitoring"]).items() if "throttles" in name]
    watched = [dimensions(metric)["FunctionName"] for alarm in throttles for metric in metrics_of(alarm)]
    assert sorted(watched) == sorted(templates.functions(jobs))


def test_the_dead_letters_of_front_doors_and_schedules_have_an_alarm(acme: Template) -> None:
    metrics = metrics_of(alarms_of(acme)["acme-refused"])
    assert {dimensions(metric)["QueueName"] for metric in metrics} == {
        *(f"acme-{queue}-dlq" for queue in Queue),
        "acme-cron-dlq",
    }


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_the_sweep_is_missed_after_four_intervals_of_its_schedule(stage: str, real_stages: RealStages) -> None:
    alarm = alarms_of(real_stages(stage).templates[f"jobs-{stage}-monitoring"])[f"jobs-{stage}-sweep"]
    assert (alarm["MetricName"], alarm["Period"], alarm["EvaluationPeriods"]) == ("Completed", 300, 4)
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert dimensions(alarm) == {"task_type": "jobs:sweep", "queue": "low"}


def test_an_hourly_sweep_is_missed_after_four_hours_and_a_disabled_sweep_never(synth: Synth) -> None:
    hourly = synth(monitoring={}, schedules={"jobs:sweep": "@hourly"}).templates["acme-monitoring"]
    assert alarms_of(hourly)["acme-sweep"]["Period"] == 3600
    off = synth(monitoring={}, schedules={"jobs:sweep": "off"}).templates["acme-monitoring"]
    assert {"acme-sweep", "acme-stuck-lease", "acme-missed-tick"} & set(alarms_of(off)) == set()


def test_a_stage_sets_thresholds_and_leaves_alarms_out(acme: Template) -> None:
    found = alarms_of(acme)
    assert found["acme-archived-critical-order-ship"]["Threshold"] == 7
    assert [name for name in found if "throttles" in name] == []


def test_each_threshold_that_is_off_removes_its_alarms() -> None:
    tasks, all_of = discover(), Monitoring()
    whole = alarms.alarms(all_of, tasks, prefix="jobs", functions=["jobs-router"])
    nothing: dict[str, Any] = {
        name: "off" for name, field in Monitoring.model_fields.items() if "off" in str(field.annotation)
    }
    assert alarms.alarms(Monitoring(**nothing, waiting=False), tasks, prefix="jobs", functions=["jobs-router"]) == []
    assert len({alarm.name for alarm in whole}) == len(whole)


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


def test_a_mail_is_sent_if_the_stage_names_an_address(acme: Template, watched: Template) -> None:
    ((_, subscription),) = templates.of_type(acme, "AWS::SNS::Subscription").items()
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "on-call@example.com")
    assert templates.of_type(watched, "AWS::SNS::Subscription") == {}


# --- Dashboard and queries -----------------------------------------------------------------------------------------


def test_the_dashboard_shows_every_lane_function_and_alarm(real_stages: RealStages) -> None:
    made, jobs = real_stages("prod").templates, real_stages("prod").whole("jobs-prod-jobs")
    ((_, dashboard),) = templates.of_type(made["jobs-prod-monitoring"], "AWS::CloudWatch::Dashboard").items()
    text = json.dumps(dashboard["DashboardBody"]).replace('\\"', '"').replace('\\\\"', '"')
    for queue in templates.queues(jobs):
        assert queue in text
    for function in templates.functions(jobs):
        assert f'"{function}"' in text
    for metric in ("Started", "Completed", "Retried", "Archived", "WaitMs", "DurationMs", "Throttles", "Errors"):
        assert f'"{metric}"' in text
    assert dashboard["DashboardName"] == "jobs-prod"
    assert len(re.findall("Fn::GetAtt", json.dumps(dashboard))) >= len(alarms_of(made["jobs-prod-monitoring"]))


def test_the_saved_queries_search_the_logs_of_every_function(real_stages: RealStages) -> None:
    made, jobs = real_stages("prod").templates, real_stages("prod").whole("jobs-prod-jobs")
    found = templates.of_type(made["jobs-prod-monitoring"], "AWS::Logs::QueryDefinition").values()
    assert {entry["Name"] for entry in found} == {f"jobs-prod/{name}" for name in QUERIES}
    for entry in found:
        assert sorted(entry["LogGroupNames"]) == sorted(
            f"/aws/lambda/{function}" for function in templates.functions(jobs)
        )


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
