"""The types of a place share one function and one lane in each queue; the function may do what any of them declares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from joblane.cdk import app
from joblane.cdk.app import Synthesised, concurrency
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.costs import RECEIVES_PER_MAPPING, mapped_queues, of_stage
from joblane.cdk.preflight.compare import examine
from joblane.cdk.preflight.read import read_declared
from joblane.cdk.templates import of_type
from joblane.cdk.way_back.deployed import Deployed
from joblane.cdk.way_back.judgement import reasons_to_stay
from joblane.names import PLACE, PLACES, Queue, set_home, types_at
from joblane.tasks.discovery import discover
from joblane.tasks.task import Task
from joblane.worker.routes import decode
from tests.costs import ALARM_METRICS
from tests.infra import templates
from tests.infra.conftest import APPS, Synth
from tests.infra.templates import Template
from tests.infra.test_monitoring_stack import alarms_of, dashboard_of, dimensions, metrics_of, text_of

LANES = {"acme-default-web", "acme-low-web"}
DRAINED = "acme-default-card-send"
SWEEP = "acme-low-jobs-sweep"


@pytest.fixture(scope="module")
def template(synth: Synth) -> Template:
    return synth.app("places").whole("acme-jobs")


def test_the_types_share_a_function_and_a_lane_in_each_queue(template: Template) -> None:
    mappings = templates.mappings(template)
    assert {queue for queue, (function, _) in mappings.items() if function == "acme-web"} == LANES | {DRAINED}
    assert {properties["BatchSize"] for queue, (_, properties) in mappings.items() if queue in LANES} == {5}
    functions = templates.functions(template)
    assert (functions["acme-web"]["MemorySize"], functions["acme-web"]["Timeout"]) == (1024, 310)
    assert {"acme-card-send", "acme-card-list"}.isdisjoint(functions)
    queues = templates.queues(template)
    assert {queues[name]["VisibilityTimeout"] for name in (*LANES, DRAINED)} == {321}
    assert "acme-low-card-send" not in queues


def test_a_drained_lane_has_the_least_concurrency(template: Template) -> None:
    mappings = templates.mappings(template)
    assert mappings[DRAINED][1]["ScalingConfig"]["MaximumConcurrency"] == 2
    assert mappings["acme-default-web"][1]["ScalingConfig"]["MaximumConcurrency"] == 5


def test_the_function_knows_its_types_and_every_function_the_places(template: Template) -> None:
    variables = templates.variables(template, "acme-web")
    assert variables[PLACE] == "web"
    assert "JOBLANE_TASK" not in variables
    assert types_at("web", variables[PLACES]) == {
        "card:list": "card:list",
        "card:post": "card:send",
        "card:send": "card:send",
    }
    for function in ("acme-card-print", "acme-jobs-sweep", "acme-router"):
        assert templates.variables(template, function)[PLACES] == variables[PLACES]
        assert PLACE not in templates.variables(template, function)


def test_the_function_may_do_what_each_of_its_types_declares(template: Template) -> None:
    allowed = templates.allowed(template, "acme-web")
    sent = {queue for queue in allowed["sqs:SendMessage"] if not queue.endswith("-dlq")}
    front_doors = {f"acme-{queue}" for queue in Queue}  # to which it sends dead letters back
    assert sent == LANES | front_doors | {DRAINED, "acme-default-card-print", SWEEP}
    assert "ses:SendEmail" in allowed
    assert {"EMAIL_FROM_ADDRESS", "JOBLANE_MAIL_FROM"} <= templates.variables(template, "acme-web").keys()


@pytest.fixture(scope="module")
def apart(synth: Synth) -> Template:
    """The same types in functions of their own."""

    def alone(*args: Any, **given: Any) -> dict[str, Task[Any, Any]]:
        tasks = {type_: replace(task, place=None) for type_, task in discover(*args, **given).items()}
        for task in tasks.values():
            set_home(task.types, None)
        return tasks

    with patch.object(app, "discover", alone):
        made = synth.anew(**APPS["places"]).whole("acme-jobs")
    discover("tests.infra.places")  # the places are those of the other tests again
    return made


def check_rights(template: Template, apart: Template) -> None:
    """Compare the rights of the place with those of the functions of its types, whose lanes and log groups differ."""
    single = [with_place(templates.allowed(apart, f"acme-{name}")) for name in ("card-list", "card-send")]
    together: dict[str, set[str]] = {}
    for action, resources in [item for allowed in single for item in allowed.items()]:
        together.setdefault(action, set()).update(resources)
    assert together not in single
    found = with_place(templates.allowed(template, "acme-web"))
    differing = sorted(each for each in found.keys() | together.keys() if found.get(each) != together.get(each))
    assert not differing, differing
    # and the others may do the same
    print_ = "acme-card-print"
    assert with_place(templates.allowed(template, print_)) == with_place(templates.allowed(apart, print_))


def test_the_function_of_a_place_may_do_what_those_of_its_types_may_do_and_no_more(
    template: Template, apart: Template
) -> None:
    check_rights(template, apart)


@pytest.mark.plants
def test_rights_of_one_type_only_are_found(synth: Synth, apart: Template) -> None:
    grant = Jobs._grant
    with patch.object(Jobs, "_grant", lambda jobs, tasks, function: grant(jobs, tasks[:1], function)):
        wrong = synth.anew(**APPS["places"]).whole("acme-jobs")
    with pytest.raises(AssertionError, match="sqs:ReceiveMessage"):
        check_rights(wrong, apart)


def with_place(allowed: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return what is allowed with the name of the place instead of those of its types."""

    def named(text: str) -> str:
        for name in ("card-list", "card-send", "card-post"):
            text = text.replace(name, "web")
        return text

    return {action: {named(resource) for resource in resources} for action, resources in allowed.items()}


def test_others_send_to_the_lanes_of_the_place(template: Template) -> None:
    sent = templates.allowed(template, "acme-card-print")["sqs:SendMessage"]
    assert {queue for queue in sent if not queue.endswith("-dlq")} == LANES | {"acme-default-card-print", SWEEP}
    routes = decode(templates.variables(template, "acme-router")["JOBLANE_ROUTES"])
    assert routes["card:list"] == ["default", "low"]
    schedules = templates.of_type(template, "AWS::Scheduler::Schedule").values()
    [daily] = [each for each in schedules if each["Name"].startswith("card-list")]
    assert "acme-default-web" in str(daily["Target"]["Arn"])


# --- Monitoring ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def monitoring(synth: Synth) -> Template:
    return synth.app("places").whole("acme-monitoring")


def test_no_two_alarms_read_the_same_metric_of_the_function(monitoring: Template) -> None:
    readers = Counter(
        (metric["Namespace"], metric["MetricName"], *dimensions(metric).values())
        for alarm in alarms_of(monitoring).values()
        for metric in metrics_of(alarm)
        if metric.get("Namespace") in ("AWS/Lambda", "AWS/SQS")
    )
    assert {each: number for each, number in readers.items() if "acme-web" in each} == {
        ("AWS/Lambda", "Errors", "acme-web"): 1,
        ("AWS/Lambda", "Throttles", "acme-web"): 1,
    }


def test_killed_invocations_of_a_place_have_an_alarm_that_names_its_types(monitoring: Template) -> None:
    alarms = alarms_of(monitoring)
    alarm = alarms["acme-failing-web"]
    assert (alarm["Threshold"], alarm["Statistic"], alarm["Period"]) == (10, "Sum", 900)
    text = text_of(alarm["AlarmDescription"])
    assert text.startswith("Function acme-web: at least 10 invocations were killed in 15m")
    assert "The function runs card:list, card:send.\n" in text
    # failed runs have the type
    for lane in ("default-card-send", "default-card-list", "low-card-list"):
        assert {metric["MetricName"] for metric in metrics_of(alarms[f"acme-failing-{lane}"])} == {
            "Started",
            "Retried",
            "Archived",
        }
    assert "Errors" in {metric["MetricName"] for metric in metrics_of(alarms["acme-failing-default-card-print"])}


def test_the_dashboard_has_a_line_for_each_lane_of_a_place(monitoring: Template) -> None:
    graphs = {widget["properties"].get("title"): widget["properties"] for widget in dashboard_of(monitoring)["widgets"]}

    def lines(title: str) -> list[str]:
        return [metric[3] for metric in graphs[title]["metrics"] if metric[3].startswith(("acme-web", *LANES))]

    assert lines("default: messages in lanes") == ["acme-default-web"]
    assert lines("low: messages in lanes") == ["acme-low-web"]
    assert lines("Functions: errors") == ["acme-web"]
    limits = {
        line["label"]: line["value"] for line in graphs["Functions: concurrent executions"]["annotations"]["horizontal"]
    }
    assert limits["limit 7: web"] == 7


def test_the_alarms_of_a_place_read_as_many_metrics_as_the_page_on_costs_counts(monitoring: Template) -> None:
    def read(*ends: str) -> int:
        found = alarms_of(monitoring).items()
        return sum(len(metrics_of(alarm)) for name, alarm in found if name.endswith(ends))

    others = 2  # the duration in an alarm of the part, and the throttles
    assert read("-default-card-print") + others == ALARM_METRICS["type"]
    assert read("-default-card-send") + 1 == ALARM_METRICS["type of a place"]
    assert read("-failing-web") + 1 == ALARM_METRICS["place"]


def test_the_synth_prints_what_the_function_of_a_place_may_do(synth: Synth) -> None:
    lines = concurrency(synth.app("places").jobs).splitlines()
    [line] = (line for line in lines if "acme-web" in line)
    assert line == (
        "  function acme-web: 2 types: card:list, card:send; each of them may enqueue card:print, "
        "send mail as no-reply@example.com, take dead letters, read EMAIL_FROM_ADDRESS"
    )
    assert [line.split()[:4] for line in lines if "-web " in line and "weight" in line] == [
        ["acme-default-web", "weight", "3", "5"],
        ["acme-low-web", "weight", "1", "2"],
    ]


def test_the_costs_count_the_mappings_of_a_place_once(synth: Synth) -> None:
    done = synth.app("places")
    mappings = templates.mappings(done.whole("acme-jobs"))
    assert mapped_queues(done.jobs.tasks) == len(mappings)
    assert [line.amount for line in of_stage(done.templates.values(), done.jobs.tasks) if "Polling" in line.what] == [
        len(mappings) * RECEIVES_PER_MAPPING
    ]


def test_the_preflight_counts_the_mappings_of_a_place_once(synth: Synth) -> None:
    done = synth.app("places")
    declared = read_declared(done.templates, done.jobs.tasks.values())
    mappings = templates.mappings(done.whole("acme-jobs")).values()
    assert declared.demand.slots == sum(found["ScalingConfig"]["MaximumConcurrency"] for _, found in mappings)
    assert {type_: place.name for type_, place in declared.homes.items()} == dict.fromkeys(
        ("card:list", "card:send", "card:post"), "web"
    )


def test_a_producer_may_still_send_to_a_lane_that_the_place_drains(template: Template) -> None:
    policies = {
        templates.target(template, policy["ManagedPolicyName"]): policy["PolicyDocument"]["Statement"]
        for policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").values()
    }
    sent = {
        name: {templates.target(template, arn) for statement in statements for arn in statement["Resource"]}
        for name, statements in policies.items()
    }
    assert sent["acme-send-card-send-${AWS::Region}"] == {"acme-default-web", DRAINED, SWEEP}
    assert sent["acme-send-card-post-${AWS::Region}"] == {"acme-default-web", SWEEP}
    assert sent["acme-send-card-list-${AWS::Region}"] == LANES | {SWEEP}


# --- A move between a function and a place -------------------------------------------------------------------------

ALONE = """
from datetime import timedelta
from joblane import Lambda, Payload, Queue, task

WEB = Lambda("web", memory_mb=1024, batch_size=5, max_concurrency=5)

class Nothing(Payload):
    pass

@task("{type}"{more})
def {folder}(payload: Nothing, ctx: object) -> None:
    pass
"""
BEFORE = {
    "card_send": ', aliases=["card:post"]',
    "card_list": ", runs_on=WEB, also=[Queue.LOW], timeout=timedelta(seconds=60), max_retry=8",
    "card_print": "",
}


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, synth: Synth) -> Iterator[Synthesised]:
    """The stage before ``card:send`` moved into the place."""
    after = synth.app("places")
    for folder, more in BEFORE.items():
        (tmp_path / "places_before" / folder).mkdir(parents=True)
        handler = ALONE.format(type=folder.replace("_", ":"), folder=folder, more=more)
        (tmp_path / "places_before" / folder / "handler.py").write_text(handler)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield synth(package="places_before", settings={}, monitoring={"email": "off"})
    for task in after.jobs.tasks.values():
        set_home(task.types, task.place.name if task.place else None)


def queues_by_place(done: Synthesised) -> dict[tuple[str, str], str]:
    return {
        (stack, logical_id): properties["QueueName"]
        for stack, template in done.templates.items()
        for logical_id, properties in of_type(template, "AWS::SQS::Queue")
    }


def test_a_move_keeps_the_drained_lane_and_is_judged_by_its_lanes(alone: Synthesised, synth: Synth) -> None:
    after = synth.app("places")
    # the same queue to CloudFormation: the place drains card:send, and not its former name
    old, new = queues_by_place(alone), queues_by_place(after)
    gone = {"acme-default-card-post", "acme-default-card-post-dlq"}
    assert set(old.values()) - set(new.values()) == gone
    assert {place: name for place, name in old.items() if name not in gone}.items() <= new.items()
    # a watched deploy that moves the type stays, in both directions
    moved_in, *others = reasons_to_stay(Deployed(alone.templates), after.templates)
    assert "it dropped a task type or a lane (acme-default-card-post, " in moved_in
    assert [reason for reason in others if "CloudFormation keeps" in reason or "may not come back" in reason]
    moved_out, *_ = reasons_to_stay(Deployed(after.templates), alone.templates)
    assert "it added a task type or a lane (acme-default-card-post, " in moved_out


def test_the_preflight_names_the_lane_that_a_move_would_delete(alone: Synthesised, synth: Synth) -> None:
    after = synth.app("places")
    declared = read_declared(after.templates, after.jobs.tasks.values())
    existing = dict.fromkeys(queues_by_place(alone).values(), 1)
    found = examine(declared, stacks=queues_by_place(alone), messages=existing, account=None, database=None)
    [finding] = found
    assert finding.what == "task type card:post"
    assert 'drains=("card:send", "card:post")' in finding.do
