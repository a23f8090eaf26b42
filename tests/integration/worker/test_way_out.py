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
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
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
from tests.samples import sample_async, sample_one
from tests.world import World

HOST = "localhost"
SECONDS = 0.05
SOON = 3.2
"""Seconds left to the invocation: three are kept for Lambda's own kill, the handler has 0.2."""
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

    def addresses(host: str) -> list[str]:
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
    monkeypatch.setattr(way_out, "_addresses", lambda host: addresses)
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
    assert set(way_out._addresses("localhost")) <= {"127.0.0.1", "::1"}
    assert way_out._addresses("localhost") != []
    assert way_out._addresses("192.0.2.7") == ["192.0.2.7"]
    assert way_out._addresses("no such host.invalid") == []


def test_a_resolver_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    ends = threading.Event()

    def hang(*_: object, **__: object) -> list[Any]:
        ends.wait()
        return []

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(way_out, "RESOLVE_SECONDS", SECONDS)
        patch.setattr(socket, "getaddrinfo", hang)
        assert way_out._addresses(HOST) == []
        ends.set()
