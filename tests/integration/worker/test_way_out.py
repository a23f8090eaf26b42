"""A run that ends while it connects to a host without an IPv6 address, in a network whose only way out is IPv6."""

from __future__ import annotations

import asyncio
import gc
import http.client
import inspect
import smtplib
import socket
import sys
import threading
import time
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any

import anyio
import pytest
import requests
import urllib3
from botocore.config import Config
from botocore.session import Session

from joblane import Payload, Redacted, TaskContext, task
from joblane.errors import RetryAfter
from joblane.settings import NO_IPV4
from joblane.sqs.message import Message
from joblane.worker import way_out
from tests.builders.handlers import run
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS
from tests.samples import sample_async, sample_one
from tests.world import World

HOST = "localhost"
SECONDS = 0.05
SOON = 3.2
"""Seconds left to the invocation: three are kept for Lambda's own kill, the handler has 0.2."""
ADDRESSES = way_out._addresses
ADVICE = f"{HOST} has no IPv6 address, and this stage has no IPv4 way out"

pytestmark = pytest.mark.usefixtures("standing_clock")


@pytest.fixture
def port() -> Iterator[int]:
    """Yield a port whose listener takes no further connection, so that the system drops its packets."""
    with ExitStack() as opened:
        listener = opened.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with suppress(TimeoutError):
            while True:
                opened.enter_context(socket.create_connection(listener.getsockname(), SECONDS))
        yield int(listener.getsockname()[1])


@pytest.fixture(autouse=True)
def without_ipv4(world: World, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The environment of a stage with IPv6 only. Return the hosts that were resolved for an explanation."""
    resolved: list[str] = []

    def addresses(host: str, seconds: float) -> list[str]:
        resolved.append(host)
        return ["8.8.8.8"]

    monkeypatch.setenv(NO_IPV4, "true")
    monkeypatch.setattr(way_out, "_advice", {})
    monkeypatch.setattr(way_out, "_addresses", addresses)
    return resolved


def by_socket(port: int) -> None:
    socket.create_connection((HOST, port), SECONDS)


def by_http_client(port: int) -> None:
    http.client.HTTPSConnection(HOST, port, timeout=SECONDS).request("GET", "/")


def by_urllib(port: int) -> None:
    urllib.request.urlopen(f"http://{HOST}:{port}", timeout=SECONDS)


def by_smtplib(port: int) -> None:
    smtplib.SMTP(HOST, port, timeout=SECONDS)


def by_urllib3(port: int) -> None:
    urllib3.PoolManager(retries=1).request("GET", f"http://{HOST}:{port}", timeout=SECONDS)


def by_requests(port: int) -> None:
    requests.get(f"http://{HOST}:{port}", timeout=SECONDS)


def by_boto(port: int) -> None:
    config = Config(connect_timeout=SECONDS, retries={"total_max_attempts": 1})
    url = f"http://{HOST}:{port}"
    given: Any = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "region_name": "eu-central-1"}
    client: Any = Session().create_client("translate", endpoint_url=url, config=config, **given)
    client.list_languages()


def by_a_thread(port: int) -> None:
    with ThreadPoolExecutor(1) as threads:
        threads.submit(by_socket, port).result()


def until_the_timeout_of_the_task(port: int) -> None:
    socket.create_connection((HOST, port))


def with_another_outcome(port: int) -> None:
    try:
        by_socket(port)
    except TimeoutError as error:
        raise RetryAfter(timedelta(minutes=1)) from error


async def by_asyncio(port: int) -> None:
    async with asyncio.timeout(SECONDS):
        await asyncio.open_connection(HOST, port)


async def by_anyio(port: int) -> None:
    with anyio.fail_after(SECONDS):
        await anyio.connect_tcp(HOST, port)


async def in_a_group(port: int) -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(by_asyncio(port))


async def until_the_timeout_of_the_async_task(port: int) -> None:
    await asyncio.open_connection(HOST, port)


@pytest.mark.parametrize(
    "connect",
    [
        by_socket,
        by_http_client,
        by_urllib,
        by_smtplib,
        by_urllib3,
        by_requests,
        by_boto,
        by_a_thread,
        until_the_timeout_of_the_task,
        with_another_outcome,
        by_asyncio,
        by_anyio,
        in_a_group,
        until_the_timeout_of_the_async_task,
    ],
)
def test_the_attempt_and_the_log_say_that_the_host_has_no_ipv6_address(
    connect: Callable[[int], Any], port: int, world: World
) -> None:
    task = sample_async if inspect.iscoroutinefunction(connect) else sample_one
    with lines() as log, unclosed_sockets():
        row = run(world, lambda ctx: connect(port), task=task, seconds=SOON if "until" in connect.__name__ else 60)
    assert row["state"] == "retry"
    assert [line.startswith(ADVICE) for line in tracebacks(world)[0].splitlines()].count(True) == 1
    assert [line["level"] for line in log.fields if line["message"].startswith(ADVICE)] == ["WARNING"]


@contextmanager
def unclosed_sockets() -> Iterator[None]:
    """The alarm interrupts Python's own code between the creation of a socket and its return."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


def tracebacks(world: World) -> list[str]:
    return [text for (text,) in world.run("select traceback from joblane.runs order by started_at")]


def test_a_host_is_resolved_and_logged_once_for_a_process(port: int, world: World, without_ipv4: list[str]) -> None:
    with lines() as log:
        for _ in range(2):
            run(world, lambda ctx: by_socket(port))
    assert without_ipv4 == [HOST]
    assert [ADVICE in text for text in tracebacks(world)] == [True, True]
    assert len([line for line in log.fields if line["message"].startswith(ADVICE)]) == 1


@pytest.mark.parametrize(
    "addresses",
    [[], ["8.8.8.8", "2600:1f00::1"], ["10.60.0.7"], ["8.8.8.8", "10.60.0.7"], ["fe80::1%eth0"]],
    ids=["not found", "IPv6 too", "private", "one private", "link"],
)
def test_a_host_that_another_way_may_reach_is_not_explained(
    addresses: list[str], port: int, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(way_out, "_addresses", lambda host, seconds: addresses)
    with lines() as log:
        assert run(world, lambda ctx: by_socket(port))["state"] == "retry"
    assert ADVICE not in tracebacks(world)[0]
    assert "IPv4" not in "".join(log.texts)


def refuse(port: int) -> None:
    raise ConnectionRefusedError


def answer_too_late(port: int) -> None:
    with socket.create_server((HOST, 0)) as server, socket.create_connection(server.getsockname(), SECONDS) as client:
        client.recv(1)


def succeed(port: int) -> None:
    pass


@pytest.mark.parametrize("handler", [refuse, answer_too_late, succeed])
def test_nothing_is_resolved_for_a_run_that_met_no_connect_timeout(
    handler: Callable[[int], Any], world: World, without_ipv4: list[str]
) -> None:
    run(world, lambda ctx: handler(0))
    assert without_ipv4 == []


def test_a_run_that_completes_does_not_import_the_explanation(world: World) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.delitem(sys.modules, way_out.__name__)
        assert run(world, lambda ctx: None)["state"] == "completed"
        assert way_out.__name__ not in sys.modules


def test_a_network_with_ipv4_needs_no_explanation(
    port: int, world: World, without_ipv4: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(NO_IPV4)
    run(world, lambda ctx: by_socket(port))
    assert without_ipv4 == []


class Webhook(Payload):
    host: Annotated[str, Redacted]
    port: int


@task("webhook:call")
def webhook_call(payload: Webhook, ctx: TaskContext) -> None:
    by_socket(payload.port)


def test_the_explanation_has_no_redacted_value(port: int, world: World) -> None:
    body = Message("webhook:call", "it", {"host": HOST, "port": port}).encode()
    with lines() as log:
        world.deliver(webhook_call, body)
    assert " has no IPv6 address, and" in tracebacks(world)[0]
    assert any(" has no IPv6 address, and" in line for line in log.texts)
    assert HOST not in "".join((*tracebacks(world), *log.texts))


def test_the_addresses_of_a_host_are_those_of_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert set(way_out._addresses("localhost", PATIENCE_SECONDS)) <= {"127.0.0.1", "::1"}
    assert way_out._addresses("localhost", PATIENCE_SECONDS) != []
    assert way_out._addresses("192.0.2.7", PATIENCE_SECONDS) == ["192.0.2.7"]
    assert way_out._addresses("no such host.invalid", PATIENCE_SECONDS) == []


@pytest.fixture
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each name hangs until the end of the test."""
    ends = threading.Event()
    real = socket.getaddrinfo

    def hang(host: Any, *rest: Any, **named: Any) -> Any:
        if not str(host).endswith(".example.com"):
            return real(host, *rest, **named)
        ends.wait()
        return []

    monkeypatch.setattr(way_out, "_addresses", ADDRESSES)
    monkeypatch.setattr(socket, "getaddrinfo", hang)
    yield
    ends.set()


def timeouts_of(hosts: int) -> None:
    """Raise a connect timeout for each of the hosts, as a handler that sends webhooks."""
    connecting: dict[str, Any] = {"__name__": "socket"}
    exec("def create_connection(host): raise TimeoutError", connecting)
    errors: list[Exception] = []
    for number in range(hosts):
        try:
            connecting["create_connection"](f"h{number}.example.com")
        except TimeoutError as error:
            errors.append(error)
    raise ExceptionGroup("webhooks", errors)


@pytest.mark.usefixtures("hanging_resolver")
def test_all_hosts_together_are_resolved_within_one_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(way_out, "RESOLVE_SECONDS", 4 * SECONDS)
    started = time.monotonic()
    row = run(world, lambda ctx: timeouts_of(40))
    assert row["state"] == "retry"
    assert time.monotonic() - started < 40 * SECONDS
    assert len(way_out._advice) == 1  # the others are resolved at their next failure


@pytest.mark.usefixtures("hanging_resolver")
def test_no_host_is_resolved_in_the_time_for_recording_the_outcome(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out_late(ctx: TaskContext) -> None:
        monkeypatch.setattr("joblane.worker.run.RECORD_SECONDS", 3600)  # more than the invocation has left
        timeouts_of(1)

    assert run(world, time_out_late)["state"] == "retry"
    assert "TimeoutError" in tracebacks(world)[0]
    assert way_out._advice == {}


@dataclass(frozen=True)
class PartnerDownError(Exception):
    partner: str


def test_an_error_that_refuses_attributes_is_explained_and_recorded(port: int, world: World) -> None:
    def call(ctx: TaskContext) -> None:
        try:
            by_socket(port)
        except TimeoutError as error:
            raise PartnerDownError("acme") from error

    assert run(world, call)["state"] == "retry"
    assert ADVICE in tracebacks(world)[0].splitlines()[-1]


def test_an_explanation_that_fails_is_left_out(port: int, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(host: str, seconds: float) -> list[str]:
        raise RuntimeError("a secret")

    monkeypatch.setattr(way_out, "_addresses", fail)
    with lines() as log:
        assert run(world, lambda ctx: by_socket(port))["state"] == "retry"
    assert "TimeoutError" in tracebacks(world)[0]
    assert "a secret" not in f"{tracebacks(world)} {log.fields}"


def test_a_timeout_that_the_handler_has_dismissed_is_not_explained(port: int, world: World) -> None:
    def refuse_amount(ctx: TaskContext) -> None:
        try:
            by_socket(port)
        except TimeoutError:
            raise ValueError("amount is negative") from None

    run(world, refuse_amount)
    assert tracebacks(world)[0].splitlines()[-1] == "ValueError: amount is negative"


@pytest.mark.parametrize(
    ("host", "is_explained"),
    [
        ("s3.eu-central-1.amazonaws.com", False),
        ("bucket.s3.eu-central-1.amazonaws.com", False),
        ("Dynamodb.eu-central-1.amazonaws.com.", False),
        ("s3.eu-west-1.amazonaws.com", True),
        ("ec2.eu-central-1.amazonaws.com", True),
        ("mys3.eu-central-1.amazonaws.com", True),
    ],
)
def test_hosts_that_a_gateway_endpoint_routes_are_not_explained(
    host: str, is_explained: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    assert (way_out._advice_for(host, 1) is not None) is is_explained


class Hook(Payload):
    url: Annotated[str, Redacted]
    sender: str
    port: int


@task("hook:call")
def hook_call(payload: Hook, ctx: TaskContext) -> None:
    by_socket(payload.port)


@pytest.mark.parametrize(
    ("url", "sender", "in_traceback", "in_log"),
    [
        ("https://LocalHost/hook?token=abcdef", "shop", False, False),
        ("https://example.com/hook", "shop@localhost", True, False),
        ("https://example.com/hook", "local", True, False),
        ("local", "shop", False, False),
        ("https://example.com/hook", "shop", True, True),
    ],
    ids=["in a redacted value", "in a value", "with a value", "with a redacted value", "in no value"],
)
def test_the_log_names_no_host_of_the_payload_and_the_attempt_no_redacted_host(
    url: str, sender: str, in_traceback: bool, in_log: bool, port: int, world: World
) -> None:
    body = Message("hook:call", "it", {"url": url, "sender": sender, "port": port}).encode()
    with lines() as log:
        world.deliver(hook_call, body)
    [in_attempt] = [line for line in tracebacks(world)[0].splitlines() if "has no IPv6" in line]
    [logged] = [line["message"] for line in log.fields if "has no IPv6" in line["message"]]
    assert (HOST in in_attempt, HOST in logged) == (in_traceback, in_log)
