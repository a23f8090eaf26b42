"""The emulator's guard: it answers programs on this machine, and refuses pages in a browser."""

from __future__ import annotations

import base64
import http.client
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import boto3
import psutil
import pytest

from joblane.local.ministack import MiniStack
from joblane.local.tools import Tools, environment_of
from joblane.project import Project
from tests.patience import PATIENCE_SECONDS

REGION = "us-east-1"
CREDENTIAL = "test/20260101/us-east-1/lambda/aws4_request"
FAKE_SIGNATURE = f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential={CREDENTIAL}&X-Amz-Signature=00"
PAGE = {
    "Origin": "https://evil.example",
    "Referer": "https://evil.example/",
    "Sec-Fetch-Site": "cross-site",
    "Sec-Fetch-Mode": "no-cors",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) Chrome/140.0",
    "Content-Type": "text/plain",
}
"""Headers of a browser for a page's request `fetch(url, {method: "POST", mode: "no-cors"})`."""
BROWSERS = {
    "Chrome": PAGE,
    "an opaque origin": {"Origin": "null"},
    "the page's own origin": {"Origin": "http://127.0.0.1:4566", "Sec-Fetch-Site": "same-origin"},
    "a clicked link": {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"},
    "a typed address": {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    "an old browser": {"User-Agent": PAGE["User-Agent"]},
    "only a referrer": {"Referer": PAGE["Referer"]},
}


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MiniStack]:
    emulator = MiniStack(tmp_path_factory.mktemp("emulator"), None, REGION)
    emulator.start()
    yield emulator
    emulator.stop()


@pytest.fixture
def queue(emulator: MiniStack) -> Iterator[str]:
    with environment_of(variables(emulator)):
        sqs = boto3.client("sqs")
        url = sqs.create_queue(QueueName="jobs")["QueueUrl"]
        yield url
        sqs.delete_queue(QueueUrl=url)
        sqs.close()


def variables(emulator: MiniStack) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": emulator.endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_REGION": REGION,
    }


def request(
    emulator: MiniStack, method: str, path: str, body: str = "", headers: dict[str, str] | None = None, host: str = ""
) -> tuple[int, bytes, dict[str, str]]:
    """Send a request with only the given headers and Host. Return status, body and headers."""
    with closing(http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=PATIENCE_SECONDS)) as connection:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        connection.putheader("Host", host or f"127.0.0.1:{emulator.port}")
        for name, value in {"Content-Length": str(len(body.encode())), **(headers or {})}.items():
            connection.putheader(name, value)
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        return answer.status, answer.read(), {name.lower(): value for name, value in answer.getheaders()}


def new_function(name: str) -> str:
    """Return the body of CreateFunction."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("index.py", "def handler(event, context):\n    return 'it ran'\n")
    code = base64.b64encode(content.getvalue()).decode()
    about = {"FunctionName": name, "Runtime": "python3.13", "Handler": "index.handler"}
    return json.dumps({**about, "Role": "arn:aws:iam::000000000000:role/any", "Code": {"ZipFile": code}})


def functions() -> list[str]:
    with closing(boto3.client("lambda")) as client:
        return [found["FunctionName"] for found in client.list_functions()["Functions"]]


def messages_in(url: str) -> str:
    with closing(boto3.client("sqs")) as client:
        names = client.get_queue_attributes(QueueUrl=url, AttributeNames=["ApproximateNumberOfMessages"])
        return names["Attributes"]["ApproximateNumberOfMessages"]


@pytest.mark.parametrize("query", ["", f"?{FAKE_SIGNATURE}"], ids=["unsigned", "fake pre-signed"])
@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_can_neither_create_nor_run_a_function(emulator: MiniStack, browser: str, query: str) -> None:
    # when
    headers = {"Content-Type": "text/plain", **BROWSERS[browser]}
    status, body, _ = request(emulator, "POST", f"/2015-03-31/functions{query}", new_function("evil"), headers)
    ran, _, _ = request(emulator, "POST", f"/2015-03-31/functions/evil/invocations{query}", "{}", headers)
    # then
    assert (status, b"refuses browsers" in body, ran) == (403, True, 403)
    with environment_of(variables(emulator)):
        assert functions() == []


@pytest.mark.parametrize("browser", BROWSERS)
def test_a_page_can_neither_list_nor_send(emulator: MiniStack, queue: str, browser: str) -> None:
    # when
    send = f"Action=SendMessage&QueueUrl={queue}&MessageBody=evil"
    answers = [
        request(emulator, "GET", "/2015-03-31/functions", headers=BROWSERS[browser]),
        request(emulator, "GET", f"/?{send}", headers=BROWSERS[browser]),
        request(
            emulator, "POST", "/", send, {**BROWSERS[browser], "Content-Type": "application/x-www-form-urlencoded"}
        ),
        request(emulator, "OPTIONS", "/", headers={**BROWSERS[browser], "Access-Control-Request-Method": "POST"}),
    ]
    # then
    assert {status for status, _, _ in answers} == {403}
    assert [name for _, _, headers in answers for name in headers if name.startswith("access-control-")] == []
    with environment_of(variables(emulator)):
        assert messages_in(queue) == "0"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "localhost.evil.example:{port}"])
def test_another_host_is_refused(emulator: MiniStack, host: str) -> None:
    """DNS rebinding: the page's host name resolves to 127.0.0.1, so the browser sees the page's own origin."""
    path, named = "/2015-03-31/functions", host.format(port=emulator.port)
    assert request(emulator, "GET", path, host=named)[0] == 403
    assert request(emulator, "POST", path, new_function("evil"), host=named)[0] == 403
    with environment_of(variables(emulator)):
        assert functions() == []


def test_a_websocket_is_refused(emulator: MiniStack) -> None:
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    key = {"Sec-WebSocket-Key": base64.b64encode(bytes(16)).decode()}
    assert request(emulator, "GET", "/", headers={**upgrade, **key})[0] == 403


def test_the_server_listens_only_on_this_machine(emulator: MiniStack) -> None:
    connections = psutil.Process(emulator.pid).net_connections()
    listening = [connection.laddr for connection in connections if connection.status == "LISTEN"]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", emulator.port)]


def test_programs_are_answered_without_cors(emulator: MiniStack, queue: str) -> None:
    for host in (f"127.0.0.1:{emulator.port}", f"localhost:{emulator.port}"):
        status, body, headers = request(emulator, "GET", "/2015-03-31/functions", host=host)
        assert (status, json.loads(body)["Functions"]) == (200, [])
        assert [name for name in headers if name.startswith("access-control-")] == []
    with environment_of(variables(emulator)):
        sqs, s3 = boto3.client("sqs"), boto3.client("s3")
        sqs.send_message(QueueUrl=queue, MessageBody="from boto3")
        s3.create_bucket(Bucket="exports")
        s3.put_object(Bucket="exports", Key="a", Body=b"content")
        link = s3.generate_presigned_url("get_object", {"Bucket": "exports", "Key": "a"})
        sqs.close()
        s3.close()
        assert messages_in(queue) == "1"
    # a pre-signed link is for curl, and not for a browser
    path = link.removeprefix(emulator.endpoint)
    assert request(emulator, "GET", path, headers={"User-Agent": "curl/8.14.1", "Accept": "*/*"})[:2] == (
        200,
        b"content",
    )
    assert request(emulator, "GET", path, headers=PAGE)[0] == 403


def test_a_node_program_with_the_headers_of_an_sdk_is_answered(emulator: MiniStack, queue: str) -> None:
    """Node's HTTP client, which its SDK uses, and its `fetch`, which sends Sec-Fetch-Mode as browsers do."""
    script = """
        const http = require("node:http");
        const [port, url] = process.argv.slice(1);
        const body = JSON.stringify({QueueUrl: url, MessageBody: "from node"});
        const headers = {"content-type": "application/x-amz-json-1.0", "x-amz-target": "AmazonSQS.SendMessage",
          "user-agent": "aws-sdk-js/3.900.0 os/linux lang/js md/nodejs#24", "amz-sdk-request": "attempt=1; max=3",
          authorization: "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/sqs/aws4_request, Signature=00"};
        http.request({host: "127.0.0.1", port, method: "POST", path: "/", headers},
          answer => answer.on("data", () => {}).on("end", () => console.log(answer.statusCode))).end(body);
        fetch(`http://localhost:${port}/`, {method: "POST", headers, body}).then(answer => console.log(answer.status));
    """
    node = Tools(Project.here()).node
    command: list[str | Path] = [node, "-e", script, "--", str(emulator.port), queue]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["200", "200"]
    with environment_of(variables(emulator)):
        assert messages_in(queue) == "2"
