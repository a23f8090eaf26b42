"""What the alarms watch and tell, read from the templates of the real tasks, and of tasks of every shape."""

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
HEADING = re.compile(r" Run: joblane .+\. Runbook: (docs/how-to/operate\.md)#([a-z-]+)\. No data: ")
MAX_DESCRIPTION = 1024
"""Source: PutMetricAlarm, CloudWatch API reference."""
MAX_RANGE_SECONDS = 86_400


@pytest.fixture(scope="module", params=["dev", "prod"])
def watched(request: pytest.FixtureRequest, real_stages: RealStages) -> Template:
    return real_stages(request.param).templates[f"jobs-{request.param}-monitoring"]


@pytest.fixture(scope="module")
def acme(synth: Synth) -> Template:
    """Of the test tasks, with thresholds of its own."""
    done = synth(monitoring={"email": "on-call@example.com", "archived": 7, "throttles": "off"})
    return done.templates["acme-monitoring"]


def alarms_of(template: Template) -> dict[str, Properties]:
    return {one["AlarmName"]: one for one in templates.of_type(template, "AWS::CloudWatch::Alarm").values()}


def metrics_of(alarm: Properties) -> list[dict[str, Any]]:
    """Each metric that an alarm reads, flat."""
    if "Metrics" not in alarm:
        return [dict(alarm)]
    return [one["MetricStat"]["Metric"] | one["MetricStat"] for one in alarm["Metrics"] if "MetricStat" in one]


def dimensions(metric: Properties) -> dict[str, str]:
    return {one["Name"]: one["Value"] for one in metric.get("Dimensions", [])}


# --- Every alarm ---------------------------------------------------------------------------------------------------


def test_every_alarm_tells_the_one_topic_when_it_rings_and_when_it_is_over(watched: Template) -> None:
    ((topic, _),) = templates.of_type(watched, "AWS::SNS::Topic").items()
    for alarm in alarms_of(watched).values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": topic}]
        assert alarm.get("ActionsEnabled", True)


def test_every_alarm_names_a_heading_that_says_what_to_do(watched: Template) -> None:
    known = anchors(PAGE)
    for name, alarm in alarms_of(watched).items():
        found = HEADING.search(alarm["AlarmDescription"])
        assert found, name
        assert found[2] in known, name
        assert len(alarm["AlarmDescription"]) <= MAX_DESCRIPTION


def test_every_heading_below_alarms_has_an_alarm(watched: Template) -> None:
    named = {HEADING.search(one["AlarmDescription"])[2] for one in alarms_of(watched).values()}  # type: ignore[index]
    section = PAGE.read_text().split("\n## Alarms\n")[1].split("\n## ")[0]
    assert {
        re.sub(r"[^a-z-]", "", one.lower().replace(" ", "-")) for one in re.findall(r"^### (.+)$", section, re.M)
    } == named


def test_silence_is_a_fault_where_something_has_to_come_and_fine_elsewhere(watched: Template) -> None:
    missing = {name.split("-", 2)[2]: one["TreatMissingData"] for name, one in alarms_of(watched).items()}
    assert {name for name, treated in missing.items() if treated == "breaching"} == {"sweep", "health-check"}
    assert set(missing.values()) == {"breaching", "notBreaching"}


def test_no_alarm_reads_more_metrics_or_a_longer_time_than_cloudwatch_takes(watched: Template) -> None:
    for name, alarm in alarms_of(watched).items():
        found = metrics_of(alarm)
        assert 1 <= len(found) <= MAX_METRICS, name
        assert {metric["Period"] * alarm["EvaluationPeriods"] <= MAX_RANGE_SECONDS for metric in found} == {True}, name
        assert alarm["DatapointsToAlarm"] <= alarm["EvaluationPeriods"]


def test_there_are_three_for_a_lane_and_few_for_the_stage_and_they_read_as_many_metrics_as_the_page_of_costs_says(
    real_stages: RealStages,
) -> None:
    made = real_stages("prod").templates
    lanes = [task for task in discover().values() for _ in task.lanes]
    functions = len(templates.functions(made["jobs-prod-jobs"]))
    found = alarms_of(made["jobs-prod-monitoring"])
    in_tens = math.ceil(functions / 10) + math.ceil(sum(not task.resumable for task in lanes) / 10)
    assert len(found) == 3 * len(lanes) + in_tens + 7
    metrics = sum(len(metrics_of(alarm)) for alarm in found.values())
    assert metrics == 7 * len(lanes) - sum(task.resumable for task in lanes) + functions + 10


# --- One by one ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", discover().values(), ids=lambda task: task.type)
def test_each_type_rings_when_it_gives_up_fails_or_waits(task: Any, real_stages: RealStages) -> None:
    found = alarms_of(real_stages("prod").templates["jobs-prod-monitoring"])
    for queue in task.lanes:
        of_lane = {"task_type": task.type, "queue": queue}
        lane = f"{queue}-{task.slug}"
        archived, failing, waiting = (found[f"jobs-prod-{name}-{lane}"] for name in ("archived", "failing", "waiting"))
        assert (archived["MetricName"], archived["Statistic"], archived["Threshold"]) == ("Archived", "Sum", 1)
        assert (waiting["MetricName"], waiting["ExtendedStatistic"]) == ("WaitMs", "p95")
        assert waiting["Threshold"] == task.target_wait.total_seconds() * 1000
        assert [dimensions(archived), dimensions(waiting)] == [of_lane, of_lane]
        assert {one["MetricName"]: dimensions(one) for one in metrics_of(failing)} == {
            "Started": of_lane,
            "Retried": of_lane,
            "Archived": of_lane,
            "Errors": {"FunctionName": f"jobs-prod-{task.slug}"},
        }
        assert {one["Namespace"] for one in [archived, waiting]} == {"Joblane/jobs-prod"}


def test_a_failure_rate_needs_runs_to_be_one(acme: Template) -> None:
    (expression,) = (
        one["Expression"]
        for one in alarms_of(acme)["acme-failing-critical-order-ship"]["Metrics"]
        if "Expression" in one
    )
    assert expression == "IF(started + errors >= 10, 100 * (retried + archived + errors) / (started + errors), 0)"


def test_runs_are_near_their_timeout_by_the_one_that_was_declared(acme: Template) -> None:
    alarm = alarms_of(acme)["acme-near-timeout-1"]
    ids = {one["Id"]: one["MetricStat"]["Metric"] for one in alarm["Metrics"] if "MetricStat" in one}
    (expression,) = (one["Expression"] for one in alarm["Metrics"] if "Expression" in one)
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
    made = real_stages("prod").templates
    throttles = [alarm for name, alarm in alarms_of(made["jobs-prod-monitoring"]).items() if "throttles" in name]
    watched = [dimensions(metric)["FunctionName"] for alarm in throttles for metric in metrics_of(alarm)]
    assert sorted(watched) == sorted(templates.functions(made["jobs-prod-jobs"]))


def test_the_dead_letters_of_doors_and_schedules_are_watched(acme: Template) -> None:
    metrics = metrics_of(alarms_of(acme)["acme-refused"])
    assert {dimensions(metric)["QueueName"] for metric in metrics} == {
        *(f"acme-{queue}-dlq" for queue in Queue),
        "acme-cron-dlq",
    }


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_the_sweep_is_missed_after_four_times_by_the_clock_of_its_schedule(stage: str, real_stages: RealStages) -> None:
    alarm = alarms_of(real_stages(stage).templates[f"jobs-{stage}-monitoring"])[f"jobs-{stage}-sweep"]
    assert (alarm["MetricName"], alarm["Period"], alarm["EvaluationPeriods"]) == ("Completed", 300, 4)
    assert (alarm["ComparisonOperator"], alarm["Threshold"]) == ("LessThanThreshold", 1)
    assert dimensions(alarm) == {"task_type": "jobs:sweep", "queue": "low"}


def test_a_sweep_once_an_hour_is_missed_after_four_and_one_that_is_off_is_not_missed(synth: Synth) -> None:
    hourly = synth(monitoring={}, schedules={"jobs:sweep": "@hourly"}).templates["acme-monitoring"]
    assert alarms_of(hourly)["acme-sweep"]["Period"] == 3600
    off = synth(monitoring={}, schedules={"jobs:sweep": "off"}).templates["acme-monitoring"]
    assert {"acme-sweep", "acme-stuck-lease", "acme-missed-tick"} & set(alarms_of(off)) == set()


def test_a_stage_sets_thresholds_and_leaves_alarms_out(acme: Template) -> None:
    found = alarms_of(acme)
    assert found["acme-archived-critical-order-ship"]["Threshold"] == 7
    assert [name for name in found if "throttles" in name] == []


def test_each_threshold_that_is_off_takes_its_alarms_away() -> None:
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


def test_the_topic_is_encrypted_and_open_to_its_own_alarms_and_tls_alone(acme: Template) -> None:
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


def test_a_mail_is_sent_where_the_stage_names_an_address(acme: Template, watched: Template) -> None:
    ((_, subscription),) = templates.of_type(acme, "AWS::SNS::Subscription").items()
    assert (subscription["Protocol"], subscription["Endpoint"]) == ("email", "on-call@example.com")
    assert templates.of_type(watched, "AWS::SNS::Subscription") == {}


# --- Dashboard and queries -----------------------------------------------------------------------------------------


def test_the_dashboard_shows_every_lane_function_and_alarm(real_stages: RealStages) -> None:
    made = real_stages("prod").templates
    ((_, dashboard),) = templates.of_type(made["jobs-prod-monitoring"], "AWS::CloudWatch::Dashboard").items()
    text = json.dumps(dashboard["DashboardBody"]).replace('\\"', '"').replace('\\\\"', '"')
    for queue in templates.queues(made["jobs-prod-jobs"]):
        assert queue in text
    for function in templates.functions(made["jobs-prod-jobs"]):
        assert f'"{function}"' in text
    for metric in ("Started", "Completed", "Retried", "Archived", "WaitMs", "DurationMs", "Throttles", "Errors"):
        assert f'"{metric}"' in text
    assert dashboard["DashboardName"] == "jobs-prod"
    assert len(re.findall("Fn::GetAtt", json.dumps(dashboard))) >= len(alarms_of(made["jobs-prod-monitoring"]))


def test_the_saved_queries_ask_the_log_of_every_function(real_stages: RealStages) -> None:
    made = real_stages("prod").templates
    found = templates.of_type(made["jobs-prod-monitoring"], "AWS::Logs::QueryDefinition").values()
    assert {one["Name"] for one in found} == {f"jobs-prod/{name}" for name in QUERIES}
    for one in found:
        assert sorted(one["LogGroupNames"]) == sorted(
            f"/aws/lambda/{function}" for function in templates.functions(made["jobs-prod-jobs"])
        )


@pytest.mark.parametrize("stage", ["dev", "prod"])
def test_every_log_group_forgets(stage: str, real_stages: RealStages) -> None:
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
