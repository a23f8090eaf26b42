"""The API's function on the deployed stack, called as API Gateway would call it."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from typing import Any
from urllib.request import urlopen

import boto3
import pytest

from tests.e2e.conftest import Deployed
from tests.http_events import claims, http_event


@pytest.fixture
def invoke(deployed: Deployed) -> Any:
    client = boto3.client("lambda")

    def call(method: str, path: str, body: object = None, *, who: dict[str, str]) -> tuple[int, Any]:
        event = http_event(method, path, body, who=who)
        answer = json.loads(client.invoke(FunctionName="jobs-api", Payload=json.dumps(event))["Payload"].read())
        assert "statusCode" in answer, answer
        return answer["statusCode"], json.loads(answer["body"])

    yield call
    client.close()


def test_an_export_is_asked_for_made_and_fetched_by_its_link(deployed: Deployed, invoke: Any) -> None:
    who = claims(str(deployed.people.user), str(deployed.people.acme), "owner")
    status, accepted = invoke("POST", "/exports", {"export_type": "full"}, who=who)
    assert status == 202
    deployed.await_state(accepted["task_id"], "completed")
    status, export = invoke("GET", f"/exports/{accepted['task_id']}", who=who)
    assert status == 200
    with urlopen(export["download"]["url"], timeout=10) as answer:
        assert "members.jsonl" in zipfile.ZipFile(BytesIO(answer.read())).namelist()


def test_a_tenant_that_is_created_is_initialized(deployed: Deployed, invoke: Any) -> None:
    status, made = invoke("POST", "/tenants", {"name": "New", "slug": "made-by-the-api"}, who=claims())
    assert status == 201
    deployed.await_state(made["task_id"], "completed")
    assert invoke("GET", f"/tasks/{made['task_id']}", who=claims())[1]["result"]["outcome"] == "initialized"


@pytest.mark.parametrize(
    ("type_", "lane"),
    [
        ("system:health_check", "jobs-default-system-health-check"),
        ("tenant:cleanup", "jobs-low-tenant-cleanup"),
        ("report:generate", "jobs-default-report-generate"),
    ],
)
def test_the_periodic_jobs_run_where_they_are_deployed(type_: str, lane: str, deployed: Deployed) -> None:
    id_ = deployed.send(lane, {"type": type_})
    row = deployed.await_state(id_, "completed")
    assert row["result"].get("healthy", True) is True, row["result"]
