"""`docs/how-to/events.md` is run: its settings, the receiver, the program that sends again, and the CDK app."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws
from sqlalchemy import create_engine, text

from infra.app import APP
from joblane.cdk.app import context_of_file
from joblane.cdk.packaging import Packages
from joblane.cdk.settings.events import Events
from joblane.project import Project
from joblane.tasks.event_kinds import KINDS, event_id
from joblane.tasks.events import DETAIL_TYPE, Event, source
from tests.infra import templates
from tests.infra.conftest import SENDERS, STAGES
from tests.pages import ROOT, blocks

PAGE, CONTRACT = ROOT / "docs" / "how-to" / "events.md", ROOT / "docs" / "reference" / "events.md"
[EXAMPLE] = [json.loads(block.text) for block in blocks("json", CONTRACT)]
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def program(name: str) -> dict[str, Any]:
    """The names of a block of the page. ``name``: of its file."""
    [code] = [block.text for block in blocks("python", PAGE) if block.text.startswith(f"# {name}\n")]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, name, "exec"), names)
    return names


def test_the_example_of_an_event_is_one() -> None:
    detail = EXAMPLE["detail"]
    event = Event.read(detail)
    assert [*detail] == [field.name for field in fields(Event)]
    assert event.id == event_id(event.task_id, event.redrives, event.kind)
    assert event.kind in KINDS
    assert EXAMPLE["source"] == source("jobs-prod")
    assert EXAMPLE["detail-type"] == DETAIL_TYPE.format(kind=event.kind)
    assert all(TIME.fullmatch(detail[name]) for name in ("enqueued_at", "finished_at"))
    assert EXAMPLE["time"] == re.sub(r"\.\d+", "", detail["finished_at"])


def test_the_settings_of_the_page_are_accepted() -> None:
    [settings] = [found for block in blocks("json", PAGE) if "events" in (found := json.loads(block.text))]
    assert Events.model_validate(settings["events"]).webhook is not None


@pytest.mark.parametrize("headers", [{}, {"x-joblane-key": ""}, {"x-joblane-key": "héllo"}])
def test_the_receiver_refuses_a_request_without_the_secret(headers: Mapping[str, str]) -> None:
    body = json.dumps(EXAMPLE).encode()
    assert program("receiver.py")["receive"](headers, body, secret="s3cret", database=None) == 401


def test_the_receiver_keeps_an_event_once(database_url: str) -> None:
    receive, engine = program("receiver.py")["receive"], create_engine(f"postgresql+pg8000{database_url[10:]}")
    with engine.begin() as connection:
        connection.execute(text("create table received (id text primary key, detail jsonb not null)"))
    # when it comes twice, the second time in another event of EventBridge
    for id_ in ("one", "two"):
        body = json.dumps({**EXAMPLE, "id": id_}).encode()
        assert receive({"x-joblane-key": "s3cret"}, body, secret="s3cret", database=engine) == 200
    # then
    with engine.begin() as connection:
        [(id_, detail)] = connection.execute(text("select id, detail from received"))
    engine.dispose()
    assert (id_, detail) == (EXAMPLE["detail"]["id"], EXAMPLE["detail"])


class Bus:
    """EventBridge with one bus, which refuses the events from ``accepts`` on."""

    def __init__(self, accepts: int) -> None:
        self.accepts, self.got = accepts, list[Mapping[str, Any]]()

    def put_events(self, Entries: list[Mapping[str, Any]]) -> Mapping[str, Any]:  # noqa: N803
        if len(self.got) >= self.accepts:
            return {"FailedEntryCount": 1, "Entries": [{"ErrorCode": "ThrottlingException"}]}
        self.got += Entries
        return {"FailedEntryCount": 0, "Entries": [{"EventId": "1"}]}


@mock_aws
def test_refused_events_are_sent_to_the_bus_again(monkeypatch: pytest.MonkeyPatch) -> None:
    # given a queue with refused events
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    sqs = boto3.client("sqs")
    refused = sqs.create_queue(QueueName="acme-events-dlq", Attributes={"VisibilityTimeout": "0"})["QueueUrl"]
    for number in range(12):
        sqs.send_message(QueueUrl=refused, MessageBody=json.dumps({**EXAMPLE, "id": str(number)}))
    names = program("send_again.py")
    # when the bus refuses one of them, it stays in the queue
    names["events"] = bus = Bus(accepts=11)
    with pytest.raises(SystemExit, match="EventBridge refused an event: ThrottlingException"):
        names["send_again"]("acme", "acme-events")
    assert len(bus.got) == 11
    # when it accepts all
    names["events"] = bus = Bus(accepts=12)
    assert names["send_again"]("acme", "acme-events") == 1
    # then they are the same events, and the queue is empty
    [entry] = bus.got
    assert (entry["Source"], entry["DetailType"]) == (EXAMPLE["source"], EXAMPLE["detail-type"])
    assert (json.loads(entry["Detail"]), entry["EventBusName"]) == (EXAMPLE["detail"], "acme-events")
    assert "Messages" not in sqs.receive_message(QueueUrl=refused)
    sqs.close()


def test_the_rule_of_the_page_is_on_the_bus_of_the_stage(no_packages: Packages, tmp_path: Path) -> None:
    app = replace(APP, functions=SENDERS, stacks=[program("infra/targets.py")["add_targets"]])
    done = app.synthesise(
        context_of_file(Project.here()) | {"stage": "dev", "stages": {"dev": {**STAGES["dev"], "settings": {}}}},
        output=tmp_path,
        environ={},
        build=lambda *_: no_packages,
        findings=False,
    )
    [rule] = templates.of_type(done.templates["acme-targets"], "AWS::Events::Rule").values()
    assert rule["EventPattern"] == {"source": [source("acme")], "detail": {"kind": ["archived"]}}
    # the reference makes CloudFormation deploy the bus first, and remove it last
    [export] = [each["Export"]["Name"] for each in done.templates["acme-jobs"]["Outputs"].values() if "Export" in each]
    assert rule["EventBusName"] == {"Fn::ImportValue": export}
