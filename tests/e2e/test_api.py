"""The API on the deployed stack: its function, invoked as API Gateway would invoke it, and its HTTP API."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from tests.builders.http_events import claims, http_event
from tests.e2e.conftest import Deployed
from tests.patience import PATIENCE_SECONDS


@pytest.fixture
def invoke(deployed: Deployed) -> Any:
    client = boto3.client("lambda")

    def call(method: str, path: str, body: object = None, *, who: dict[str, str]) -> tuple[int, Any]:
        event = http_event(method, path, body, who=who)
        answer = json.loads(client.invoke(FunctionName="other-api", Payload=json.dumps(event))["Payload"].read())
        assert "statusCode" in answer, answer
        return answer["statusCode"], json.loads(answer["body"])

    yield call
    client.close()


def test_an_export_is_requested_created_and_downloaded_by_its_link(deployed: Deployed, invoke: Any) -> None:
    who = claims(str(deployed.people.user), str(deployed.people.acme), "owner")
    status, accepted = invoke("POST", "/exports", {"export_type": "full"}, who=who)
    assert status == 202
    deployed.await_state(accepted["task_id"], "completed")
    status, export = invoke("GET", f"/exports/{accepted['task_id']}", who=who)
    assert status == 200
    with urlopen(export["download"]["url"], timeout=PATIENCE_SECONDS) as answer:
        assert "members.jsonl" in zipfile.ZipFile(BytesIO(answer.read())).namelist()


# --- Through the HTTP API ------------------------------------------------------------------------------------------


@dataclass
class Http:
    """The HTTP API of the stack, at the emulator's path for it."""

    address: str

    def __call__(self, method: str, path: str, body: object = None, *, signed: bool = True) -> tuple[int, Any]:
        """Send a request with the credentials of the environment."""
        url, data = self.address + path, None if body is None else json.dumps(body).encode()
        request = AWSRequest(method, url, {"Content-Type": "application/json"}, data)
        if signed:
            session = boto3.Session()
            credentials = session.get_credentials()
            assert credentials is not None
            SigV4Auth(credentials, "execute-api", session.region_name).add_auth(request)
        sent = Request(url, data, dict(request.headers), method=method)
        try:
            with urlopen(sent, timeout=PATIENCE_SECONDS) as answer:
                return answer.status, json.loads(answer.read())
        except HTTPError as error:
            with error:
                return error.status or 0, json.loads(error.read())


@pytest.fixture
def http(deployed: Deployed) -> Http:
    host = urlsplit(deployed.stack.output("ApiUrl")).hostname
    assert host is not None
    return Http(f"{deployed.stack.endpoint}/_aws/execute-api/{host.partition('.')[0]}/$default")


def test_a_service_creates_a_tenant_and_follows_its_task(deployed: Deployed, http: Http) -> None:
    status, made = http("POST", "/tenants", {"name": "New", "slug": "made-by-a-service"})
    assert status == 201, made
    deployed.await_state(made["task_id"], "completed")
    status, task = http("GET", f"/tasks/{made['task_id']}")
    assert (status, task["result"]["outcome"]) == (200, "initialized")


def test_a_service_cannot_read_data_of_a_tenant(http: Http) -> None:
    assert http("POST", "/exports", {"export_type": "full"})[0] == 403


def test_the_http_api_rejects_unsigned_requests_and_unknown_routes(http: Http) -> None:
    """The messages are API Gateway's: the function, which has other messages, was not invoked."""
    assert http("GET", "/openapi.json", signed=False) == (403, {"message": "Forbidden"})
    for method, path in (("GET", "/nothing"), ("DELETE", "/tenants"), ("GET", "/")):
        assert http(method, path) == (404, {"message": "Not Found"})
