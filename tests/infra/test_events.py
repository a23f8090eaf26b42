"""The bus of a stage's events, the functions that may send to it, and its webhook."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.errors import StageError
from joblane.cdk.settings.stage import Stage
from tests.infra import templates
from tests.infra.conftest import SENDERS, Synth
from tests.infra.templates import Template
from tests.infra.test_monitoring_stack import all_problems

BUS = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/"
RULE = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/"
WEBHOOK: dict[str, Any] = {"url": "https://hooks.acme.io/joblane", "secret": {"secret": "acme/hook", "field": "key"}}


def with_events(synth: Synth, events: Mapping[str, Any] | None = None, **more: Any) -> Synthesised:
    given: dict[str, Any] = {**more} if events is None else {**more, "events": events}
    return synth("dev", package=SENDERS, settings={}, **given)


@pytest.fixture(scope="module")
def plain(synth: Synth) -> Template:
    """A stage without the setting."""
    return with_events(synth).whole("acme-jobs")


@pytest.fixture(scope="module")
def called(synth: Synth) -> Synthesised:
    """A stage with a webhook and alarms, whose findings of cdk-nag are refused."""
    webhook = {**WEBHOOK, "kinds": ["archived"], "types": ["order:paid"], "rate_per_second": 5}
    return with_events(synth, {"webhook": webhook}, monitoring={"email": "a@acme.io"}, findings=True)


@pytest.fixture(scope="module")
def webhook(called: Synthesised) -> Template:
    return called.whole("acme-jobs")


def only(template: Template, kind: str) -> Any:
    (found,) = templates.of_type(template, kind).values()
    return found


def matches(pattern: Mapping[str, Any], event: Mapping[str, Any]) -> bool:
    """Return what EventBridge says of a pattern with exact values."""
    return all(
        matches(wanted, event[key]) if isinstance(wanted, Mapping) else event[key] in wanted
        for key, wanted in pattern.items()
    )


# --- The bus -------------------------------------------------------------------------------------------------------


def test_a_stage_whose_tasks_send_events_has_a_bus_of_its_own(plain: Template) -> None:
    assert only(plain, "AWS::Events::EventBus")["Name"] == "acme-events"


def test_only_senders_and_the_sweep_may_send_and_only_to_that_bus(plain: Template) -> None:
    senders = {"acme-order-paid", "acme-jobs-sweep"}
    for name in templates.functions(plain):
        sent = templates.allowed(plain, name).get("events:PutEvents")
        bus = templates.variables(plain, name).get("JOBLANE_EVENT_BUS")
        assert (sent, bus) == (({BUS + "acme-events"}, "acme-events") if name in senders else (None, None)), name


def test_the_bus_is_deployed_before_the_functions_that_send_to_it(synth: Synth) -> None:
    done = with_events(synth)
    nested = {
        logical_id
        for logical_id, found in done.templates["acme-jobs"]["Resources"].items()
        if found["Type"] == "AWS::CloudFormation::Stack"
        and "events:PutEvents" in json.dumps(done.templates[f"acme-jobs/{logical_id}"])
    }
    resources = done.templates["acme-jobs"]["Resources"]
    [bus] = [logical_id for logical_id, found in resources.items() if found["Type"] == "AWS::Events::EventBus"]
    assert len(nested) == 2
    assert all(bus in resources[logical_id]["DependsOn"] for logical_id in nested)


def test_without_tasks_that_send_events_there_is_no_bus(dev: Synthesised) -> None:
    assert "AWS::Events" not in json.dumps(dev.templates)
    assert "JOBLANE_EVENT_BUS" not in json.dumps(dev.templates)


def test_an_existing_bus_is_used_and_not_created(synth: Synth) -> None:
    template = with_events(synth, {"bus": "default", "webhook": WEBHOOK}).whole("acme-jobs")
    assert templates.of_type(template, "AWS::Events::EventBus") == {}
    assert templates.allowed(template, "acme-order-paid")["events:PutEvents"] == {BUS + "default"}
    assert templates.variables(template, "acme-jobs-sweep")["JOBLANE_EVENT_BUS"] == "default"
    assert only(template, "AWS::Events::Rule")["EventBusName"] == "default"
    # the ARN of a rule on the account's default bus does not name the bus
    assert trusted_rule(template) == RULE + "acme-webhook"


def test_a_local_stage_has_the_bus_on_the_emulator(synth: Synth) -> None:
    template = synth("local", package=SENDERS, settings={}).whole("jobs-jobs")
    assert only(template, "AWS::Events::EventBus")["Name"] == "jobs-events"
    assert templates.variables(template, "jobs-order-paid")["JOBLANE_EVENT_BUS"] == "jobs-events"


# --- The webhook ---------------------------------------------------------------------------------------------------


def trusted_rule(template: Template) -> str:
    rule = only(template, "AWS::Events::Rule")
    role = template["Resources"][rule["Targets"][0]["RoleArn"]["Fn::GetAtt"][0]]["Properties"]
    (trust,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "events.amazonaws.com"}
    condition = trust["Condition"]["StringEquals"]
    assert condition["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}
    return templates.target(template, condition["aws:SourceArn"])


def test_the_template_refers_to_the_secret_and_does_not_have_it(called: Synthesised, webhook: Template) -> None:
    connection = only(webhook, "AWS::Events::Connection")
    assert connection["AuthorizationType"] == "API_KEY"
    assert connection["AuthParameters"]["ApiKeyAuthParameters"] == {
        "ApiKeyName": "X-Joblane-Key",
        "ApiKeyValue": "{{resolve:secretsmanager:acme/hook:SecretString:key::}}",
    }
    for name in templates.functions(webhook):
        assert "acme/hook" not in json.dumps(templates.variables(webhook, name))
        assert "acme/hook" not in json.dumps(sorted(map(sorted, templates.allowed(webhook, name).values())))


def test_the_webhook_is_called_by_post_at_its_rate(webhook: Template) -> None:
    destination = only(webhook, "AWS::Events::ApiDestination")
    assert (destination["InvocationEndpoint"], destination["HttpMethod"]) == (WEBHOOK["url"], "POST")
    assert destination["InvocationRateLimitPerSecond"] == 5
    assert destination["ConnectionArn"]["Fn::GetAtt"][0] in webhook["Resources"]


@pytest.mark.parametrize(
    ("changes", "gets"),
    [
        ({}, True),
        ({"kind": "completed"}, False),
        ({"type": "order:packed"}, False),
        ({"type": "order:bought"}, True),  # an alias of order:paid
        ({"stage": "joblane.acme-two"}, False),  # of another stage on the same bus
    ],
)
def test_the_webhook_gets_the_kinds_and_types_of_its_stage(
    changes: Mapping[str, str], gets: bool, webhook: Template
) -> None:
    pattern = only(webhook, "AWS::Events::Rule")["EventPattern"]
    detail = {"kind": "archived", "type": "order:paid", **changes}
    event = {"source": detail.pop("stage", "joblane.acme"), "detail-type": "Task archived", "detail": detail}
    assert matches(pattern, event) is gets


def test_without_kinds_and_types_the_webhook_gets_every_event_of_the_stage(synth: Synth) -> None:
    template = with_events(synth, {"webhook": WEBHOOK}).whole("acme-jobs")
    assert only(template, "AWS::Events::Rule")["EventPattern"] == {"source": ["joblane.acme"]}


def test_a_refused_event_is_kept_in_a_queue_that_only_this_rule_can_send_to(webhook: Template) -> None:
    (target,) = only(webhook, "AWS::Events::Rule")["Targets"]
    assert target["RetryPolicy"] == {"MaximumEventAgeInSeconds": 86_400, "MaximumRetryAttempts": 185}
    assert templates.target(webhook, target["DeadLetterConfig"]["Arn"]) == "acme-events-dlq"
    assert templates.queues(webhook)["acme-events-dlq"]["MessageRetentionPeriod"] == 1_209_600
    (policy,) = (
        policy
        for policy in templates.of_type(webhook, "AWS::SQS::QueuePolicy").values()
        if [templates.target(webhook, queue) for queue in policy["Queues"]] == ["acme-events-dlq"]
    )
    tls, sends = policy["PolicyDocument"]["Statement"]
    assert (tls["Effect"], tls["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})
    assert (sends["Effect"], sends["Action"]) == ("Allow", "sqs:SendMessage")
    assert sends["Principal"] == {"Service": "events.amazonaws.com"}
    rule = sends["Condition"]["ArnEquals"]["aws:SourceArn"]
    assert templates.target(webhook, rule) == trusted_rule(webhook) == f"{RULE}acme-events/acme-webhook"


def test_the_rules_role_may_only_call_the_webhook(webhook: Template) -> None:
    (target,) = only(webhook, "AWS::Events::Rule")["Targets"]
    assert templates.allowed_to_role(webhook, target["RoleArn"]) == {
        "events:InvokeApiDestination": {target["Arn"]["Fn::GetAtt"][0]}
    }


# --- Alarms --------------------------------------------------------------------------------------------------------


def alarm(called: Synthesised, name: str) -> Any:
    found = templates.of_type(called.whole("acme-monitoring"), "AWS::CloudWatch::Alarm").values()
    return next(each for each in found if each["AlarmName"] == f"acme-{name}")


def test_refused_events_have_an_alarm_also_if_they_are_lost(called: Synthesised) -> None:
    refused = alarm(called, "events-refused")
    metrics = {each["Id"]: each["MetricStat"]["Metric"] for each in refused["Metrics"] if "MetricStat" in each}
    assert metrics["kept"]["Dimensions"] == [{"Name": "QueueName", "Value": "acme-events-dlq"}]
    assert metrics["failed"]["MetricName"] == "FailedInvocations"
    assert metrics["failed"]["Dimensions"] == [
        {"Name": "EventBusName", "Value": "acme-events"},
        {"Name": "RuleName", "Value": "acme-webhook"},
    ]
    (expression,) = (each["Expression"] for each in refused["Metrics"] if "Expression" in each)
    assert expression == "FILL(kept, 0) + FILL(failed, 0)"  # EventBridge writes no zeros


def test_events_that_wait_or_are_dropped_have_alarms(called: Synthesised) -> None:
    late, dropped = alarm(called, "events-late"), alarm(called, "events-dropped")
    assert (late["MetricName"], late["Threshold"]) == ("EventsOldestSeconds", 1_800)
    assert (dropped["MetricName"], dropped["Threshold"]) == ("EventsDropped", 1)


def test_every_alarm_of_events_has_a_topic_a_command_and_a_section(called: Synthesised) -> None:
    assert all_problems(called.whole("acme-monitoring"), "acme") == []


def test_a_stage_without_events_has_no_alarms_of_them(synth: Synth) -> None:
    done = synth("dev", monitoring={"email": "a@acme.io"})
    assert "acme-events" not in json.dumps(done.whole("acme-monitoring"))


# --- Bad settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ({"bus": "arn:aws:events:eu-central-1:111122223333:event-bus/x"}, "events.bus: the name of an event bus in"),
        ({"webhook": {"url": WEBHOOK["url"]}}, "events.webhook.secret: Field required"),
        ({"webhook": {**WEBHOOK, "secret": "s3cret-value"}}, "events.webhook.secret: an object is required"),
        ({"webhook": {**WEBHOOK, "url": "http://hooks.acme.io/x"}}, "events.webhook.url: https:// and a host are"),
        ({"webhook": {**WEBHOOK, "url": "https://"}}, "events.webhook.url: https:// and a host are required"),
        ({"webhook": {**WEBHOOK, "url": "https://[x"}}, "events.webhook.url: https:// and a host are required"),
        ({"webhook": {**WEBHOOK, "url": "https://acme.io:99999/x"}}, "events.webhook.url: https:// and a host are"),
        *(
            ({"webhook": {**WEBHOOK, "url": f"https://{host}/x"}}, "events.webhook.url: a name of the public DNS is")
            for host in ("localhost", "10.0.0.7", "[::1]", "hooks.internal", "hooks.local")
        ),
        ({"webhook": {**WEBHOOK, "url": "https://a:b@acme.io/x"}}, "events.webhook.url: .* without user, query"),
        ({"webhook": {**WEBHOOK, "url": "https://acme.io/x?token=s3cret"}}, "events.webhook.url: .* without user, "),
        ({"webhook": {**WEBHOOK, "url": "https://acme.io/*"}}, r"events.webhook.url: .* without \* and spaces"),
        ({"webhook": {**WEBHOOK, "header": "X Key"}}, "events.webhook.header: the name of an HTTP header is required"),
        ({"webhook": {**WEBHOOK, "kinds": "archived"}}, "events.webhook.kinds: a list is required"),
        ({"webhook": {**WEBHOOK, "kinds": []}}, "events.webhook.kinds: 1 at least are required"),
        (
            {"webhook": {**WEBHOOK, "kinds": ["failed"]}},
            "events.webhook.kinds.0: it must be 'completed', 'archived' or",
        ),
        ({"webhook": {**WEBHOOK, "rate_per_second": 301}}, "events.webhook.rate_per_second: .*less than or equal to"),
        ({"webhook": {**WEBHOOK, "retries": 3}}, "events.webhook.retries: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_setting_of_events_is_refused_by_its_name(
    events: Mapping[str, Any], problem: str, synth: Synth
) -> None:
    with pytest.raises(StageError, match=problem) as refused:
        with_events(synth, events)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("webhook", "problem"),
    [
        (
            {"types": ["order:packed"]},
            "events.webhook.types: no task 'order:packed' declares events=; these do: order:",
        ),
        ({"types": ["order:lost"]}, "events.webhook.types: no task 'order:lost' declares events=; these do: order:b"),
        ({"kinds": ["cancelled"]}, "events.webhook.kinds: no task declares 'cancelled' in events=; declared are arch"),
    ],
)
def test_a_webhook_that_would_get_nothing_is_refused(webhook: Mapping[str, Any], problem: str, synth: Synth) -> None:
    with pytest.raises(StageError, match=problem):
        with_events(synth, {"webhook": {**WEBHOOK, **webhook}})


def test_the_setting_without_a_task_that_sends_events_is_refused(synth: Synth) -> None:
    with pytest.raises(StageError, match="events: no task declares events; leave it out, or declare @task"):
        synth("dev", events={"bus": "default"})


def test_a_local_stage_takes_no_settings_of_events() -> None:
    given = {"name": "local", "local": True, "database": {"kind": "local", "url": "postgresql:///x"}}
    with pytest.raises(ValueError, match="events: a local stage has a bus of its own"):
        Stage.model_validate({**given, "events": {}})
