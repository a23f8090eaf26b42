"""Resources of a process: their opening, their end, threads, loops and forks."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from joblane import forking, resource
from joblane.errors import DeclarationError
from joblane.handler.resources import close_resources
from tests.collector import Collector
from tests.infra.runtime.runtime_api import Invocation, RuntimeApi
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS

log: list[str] = []


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    log.clear()
    yield
    close_resources()


def declare(name: str, *uses: Any) -> Any:
    @resource
    def made() -> Iterator[str]:
        for other in uses:
            other()
        log.append(f"{name} opens")
        yield name
        log.append(f"{name} closes")

    return made


def test_a_resource_is_opened_with_its_first_use_and_closed_in_the_reverse_order() -> None:
    first = declare("first")
    second = declare("second", first)
    assert log == []
    assert [second(), first(), second()] == ["second", "first", "second"]
    assert log == ["first opens", "second opens"]
    close_resources()
    close_resources()
    assert log[2:] == ["second closes", "first closes"]
    assert first() == "first"  # it opens again
    assert log[4:] == ["first opens"]


def test_threads_open_a_resource_once() -> None:
    entered, opened = threading.Barrier(8), threading.Event()

    @resource
    def slow() -> Iterator[object]:
        log.append("opens")
        opened.wait(5)
        yield object()

    found: list[object] = []

    def use() -> None:
        entered.wait()
        found.append(slow())

    threads = [threading.Thread(target=use) for _ in range(7)]
    for thread in threads:
        thread.start()
    entered.wait()
    opened.set()
    for thread in threads:
        thread.join()
    assert (log, len(found), len(set(map(id, found)))) == (["opens"], 7, 1)


def test_a_resource_that_cannot_be_opened_is_tried_again() -> None:
    @resource
    def service() -> Iterator[str]:
        log.append("opens")
        if len(log) == 1:
            raise ConnectionError("refused")
        yield "service"

    with pytest.raises(ConnectionError):
        service()
    assert service() == "service"


def test_an_async_resource_belongs_to_its_loop_and_is_opened_once_there() -> None:
    @resource
    async def pool() -> AsyncIterator[Any]:
        log.append("opens")
        await asyncio.sleep(0)
        yield asyncio.get_running_loop()
        await asyncio.sleep(0)
        log.append("closes")

    async def use() -> bool:
        found = await asyncio.gather(*(pool() for _ in range(5)))
        return {id(each) for each in found} == {id(asyncio.get_running_loop())}

    first, second = asyncio.new_event_loop(), asyncio.new_event_loop()
    assert first.run_until_complete(use())
    assert second.run_until_complete(use())
    assert log == ["opens", "opens"]
    first.close()  # as after a timeout that a handler has blocked
    assert second.run_until_complete(use())
    close_resources()
    assert log == ["opens", "opens", "closes"]
    second.close()


def test_an_error_at_the_end_is_logged_and_the_others_are_closed() -> None:
    @resource
    def fails() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    @resource
    def twice() -> Iterator[int]:
        yield 1
        yield 2

    @resource
    async def fails_async() -> AsyncIterator[int]:
        yield 1
        raise OSError("gone too")

    declare("first")()
    fails()
    twice()
    loop = asyncio.new_event_loop()
    loop.run_until_complete(fails_async())
    with lines() as logged:
        close_resources()
    loop.close()
    assert log == ["first opens", "first closes"]
    assert [line["error"] for line in logged.fields] == [
        "gone too",
        "it has yielded twice; a resource yields its value once",
        "gone",
    ]
    assert logged.fields[2]["resource"].endswith("<locals>.fails")


def returns() -> int:
    return 1


def with_parameter(name: str) -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (returns, "resource: returns: a generator function is required"),
        (7, "resource: 7: a generator function is required"),
        (with_parameter, "resource: with_parameter: the function takes no parameters"),
    ],
)
def test_a_resource_is_a_generator_function_without_parameters(function: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        resource(function)


def test_a_resource_without_a_value_is_refused_where_it_is_used() -> None:
    @resource
    def nothing() -> Iterator[int]:
        if log:
            yield 1

    @resource
    async def nothing_async() -> AsyncIterator[int]:
        if log:
            yield 1

    with pytest.raises(DeclarationError, match="nothing: it has returned without a yield"):
        nothing()
    with pytest.raises(DeclarationError, match="nothing_async: it has returned without a yield"):
        asyncio.run(nothing_async())


def test_a_fork_leaves_the_resource_to_its_parent() -> None:
    made = declare("it")
    made()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        close_resources()  # not the parent's
        made()
        close_resources()
        os.write(write, ", ".join(log).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        assert pipe.read() == "it opens, it opens, it closes"
    os.waitpid(child, 0)
    assert log == ["it opens"]


RESOURCES = """
import os, signal, sys, time
from joblane import resource
from joblane.record.driver.event_loop import process_loop

@resource
def client():
    print("opens", flush=True)
    yield 1
    print("closes", flush=True)

@resource
async def pool():
    yield 1
    print("closes, async", flush=True)
"""
USE = """
client()
process_loop.run(pool)
"""


@pytest.mark.parametrize(
    ("end", "printed", "code"),
    [
        ("sys.exit(3)", "opens\ncloses, async\ncloses\n", 3),
        ("os.kill(os.getpid(), signal.SIGTERM); time.sleep(9)", "opens\n", -15),
    ],
)
def test_the_end_of_a_process_closes_its_resources(end: str, printed: str, code: int) -> None:
    program = [sys.executable, "-c", RESOURCES + USE + end]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == (printed, code), done.stderr


FUNCTION = """
from joblane.otel.provider import background_of_provider
from opentelemetry import metrics

background_of_provider()
ended = metrics.get_meter("test").create_counter("function.ended")

def handler(event, context):
    ended.add(1)
    client()
    process_loop.run(pool)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Lambda's runtime client has wheels for Linux only")
def test_the_signal_of_lambda_closes_resources_and_exports_metrics(tmp_path: Path) -> None:
    (tmp_path / "function.py").write_text(RESOURCES + FUNCTION)
    with Collector() as collector:
        api = RuntimeApi()
        environment = {
            **os.environ,
            forking.ON_LAMBDA: api.address,
            "AWS_EXECUTION_ENV": "AWS_Lambda_python3.13",  # from 3.12 on the client handles signals while it waits
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        }
        program = [sys.executable, "-m", "awslambdaric", "function.handler"]
        process = subprocess.Popen(program, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert api.started.get(timeout=PATIENCE_SECONDS) == b"next"
            api.pending.put(invocation := Invocation(b"{}", int((time.time() + 60) * 1000), "function"))
            assert invocation.answer.get(timeout=PATIENCE_SECONDS) == ("response", b"null")
            assert collector.posts == []
            process.terminate()
            printed, _ = process.communicate(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
            api.close()
    assert (printed, process.returncode) == ("opens\ncloses, async\ncloses\n", -signal.SIGTERM)
    assert [path for path, body in collector.posts if b"function.ended" in body] == ["/v1/metrics"]
