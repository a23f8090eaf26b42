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
from tests.infra.conftest import SENDERS, WEBHOOK, Synth
from tests.infra.templates import Template

BUS = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:event-bus/"
RULE = "arn:${AWS::Partition}:events:${AWS::Region}:${AWS::AccountId}:rule/"


def with_events(synth: Synth, events: Mapping[str, Any]) -> Synthesised:
    return synth("dev", package=SENDERS, settings={}, events=events)


@pytest.fixture(scope="module")
def webhook(synth: Synth) -> Template:
    """The jobs of a stage with a webhook."""
    return synth.app("events").whole("acme-jobs")


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


def test_only_senders_and_the_sweep_may_send_and_only_to_that_bus(webhook: Template) -> None:
    senders = {"acme-order-paid", "acme-jobs-sweep"}
    for name in templates.functions(webhook):
        sent = templates.allowed(webhook, name).get("events:PutEvents")
        bus = templates.variables(webhook, name).get("JOBLANE_EVENT_BUS")
        assert (sent, bus) == (({BUS + "acme-events"}, "acme-events") if name in senders else (None, None)), name


def test_an_existing_bus_is_used_and_not_created(synth: Synth) -> None:
    template = with_events(synth, {"bus": "default", "webhook": WEBHOOK}).whole("acme-jobs")
    assert templates.of_type(template, "AWS::Events::EventBus") == {}
    assert templates.allowed(template, "acme-order-paid")["events:PutEvents"] == {BUS + "default"}
    assert templates.variables(template, "acme-jobs-sweep")["JOBLANE_EVENT_BUS"] == "default"
    rule = only(template, "AWS::Events::Rule")
    assert rule["EventBusName"] == "default"
    # the ARN of a rule on the account's default bus does not name the bus
    (trust,) = template["Resources"][rule["Targets"][0]["RoleArn"]["Fn::GetAtt"][0]]["Properties"][
        "AssumeRolePolicyDocument"
    ]["Statement"]
    assert templates.target(template, trust["Condition"]["StringEquals"]["aws:SourceArn"]) == RULE + "acme-webhook"


def test_a_local_stage_has_the_bus_on_the_emulator(synth: Synth) -> None:
    template = synth("local", package=SENDERS, settings={}).whole("jobs-jobs")
    assert only(template, "AWS::Events::EventBus")["Name"] == "jobs-events"
    assert templates.variables(template, "jobs-order-paid")["JOBLANE_EVENT_BUS"] == "jobs-events"


# --- The webhook ---------------------------------------------------------------------------------------------------


def test_only_the_connection_knows_the_secret_of_the_webhook(webhook: Template) -> None:
    assert json.dumps(webhook["Resources"]).count("acme/hook") == 1


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


# --- Bad settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("events", "problem"),
    [
        ({"bus": "arn:aws:events:eu-central-1:111122223333:event-bus/x"}, "events.bus: the name of an event bus in"),
        ({"webhook": {"url": WEBHOOK["url"]}}, "events.webhook.secret: it is required"),
        ({"webhook": {**WEBHOOK, "secret": "s3cret-value"}}, "events.webhook.secret: an object is required"),
        ({"webhook": {**WEBHOOK, "url": "http://hooks.acme.io/x"}}, "events.webhook.url: https:// and a host are"),
        ({"webhook": {**WEBHOOK, "url": "https://"}}, "events.webhook.url: https:// and a host are required"),
        ({"webhook": {**WEBHOOK, "url": "https://[x"}}, "events.webhook.url: https:// and a host are required"),
        ({"webhook": {**WEBHOOK, "url": "https://acme.io:99999/x"}}, "events.webhook.url: https:// and a host are"),
        *(
            ({"webhook": {**WEBHOOK, "url": f"https://{host}/x"}}, "events.webhook.url: a public DNS name is")
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
        ({"webhook": {**WEBHOOK, "retries": 3}}, "events.webhook.retries: there is no such setting here"),
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
