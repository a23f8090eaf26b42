"""The route of signals in FastAPI: its rules, its races, and what the logs show of it."""

from __future__ import annotations

import asyncio
import http.client
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI
from sqlalchemy import text
from starlette.testclient import TestClient

import joblane.fastapi
from joblane import Payload, TaskContext, task
from joblane.client import signal_route
from joblane.enqueue.producer import Producer
from joblane.errors import DatabaseUnavailableError
from joblane.settings import SIGNAL_KEYS
from joblane.testing import JobTester
from tests.addresses import CHECKS, SIGNAL, Response, Send, asked, check_scans, given, rows, url_ask


@task("url:ask_async", environment=url_ask.environment)
async def url_ask_async(payload: Payload, ctx: TaskContext) -> str:
    given[ctx.task_id] = ctx.signal_url(SIGNAL), ""
    await ctx.asleep("a while", timedelta(0))
    return ctx.signal_url(SIGNAL)


def application() -> FastAPI:
    app = FastAPI(lifespan=joblane.fastapi.lifespan)
    app.include_router(joblane.fastapi.signals)
    return app


@pytest.fixture
def send(jobs: JobTester) -> Iterator[Send]:
    with TestClient(application()) as client:

        def send(method: str, url: str, body: Any = b"", accept: str = "*/*") -> Response:
            answer = client.request(method, url, content=body, headers={"accept": accept})
            return Response(answer.status_code, answer.text, answer.headers)

        yield send


def test_the_rules(jobs: JobTester, send: Send) -> None:
    for check in CHECKS:
        check(jobs, send)


@pytest.mark.plants
def test_a_route_that_signals_on_get_is_found(jobs: JobTester, send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = signal_route.answer

    def plant(jobs: Any, method: str, *rest: Any) -> signal_route.Answer:
        done = answer(jobs, method, *rest)
        answer(jobs, "POST", *rest)
        return done

    monkeypatch.setattr(signal_route, "answer", plant)
    with pytest.raises(AssertionError):
        check_scans(jobs, send)


def test_a_body_without_a_length_is_counted(jobs: JobTester, send: Send) -> None:
    _, open_ = asked(jobs, "t")
    read = []

    def chunks(number: int) -> Iterator[bytes]:
        for _ in range(number):
            read.append(1)
            yield b'"' + b"x" * 16_000 + b'"'

    assert (send("POST", open_, chunks(1000)).status, send("POST", open_, chunks(1)).status) == (413, 200)


def test_the_address_is_the_same_in_each_run(jobs: JobTester) -> None:
    first = asked(jobs, "t")
    given.clear()
    jobs.signal("t", SIGNAL)
    jobs.drain()
    assert given["t"] == first


def test_a_coroutine_makes_the_same_addresses(jobs: JobTester) -> None:
    jobs.enqueue(url_ask_async, Payload(), task_id="t")
    jobs.drain()
    assert given["t"][0] == jobs.task("t").result


# --- Races ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("commits", "status"), [(True, 409), (False, 200)])
def test_the_second_of_two_answers_waits_for_the_first(commits: bool, status: int, jobs: JobTester, send: Send) -> None:
    _, open_ = asked(jobs, "t")
    found: list[int] = []
    second = threading.Thread(target=lambda: found.append(send("POST", open_, b"2").status))
    with jobs.engine.connect() as connection:
        connection.execute(text("select joblane.signal('t', :name, '1', 'url')"), {"name": SIGNAL})
        second.start()
        waiting = "select exists (select from pg_locks where not granted and locktype = 'transactionid')"
        while second.is_alive() and not jobs._database.get().run(waiting)[0][0]:
            pass
        connection.commit() if commits else connection.rollback()
    second.join()
    jobs.drain()
    assert (found, jobs.task("t").result) == ([status], 1 if commits else 2)


def test_of_different_answers_at_once_one_counts(jobs: JobTester) -> None:
    _, open_ = asked(jobs, "t")
    found: dict[int, int] = {}
    barrier = threading.Barrier(4)

    def post(value: int) -> None:
        with TestClient(application()) as client:  # a client and a connection of its own
            barrier.wait()
            found[value] = client.post(open_, content=str(value)).status_code

    threads = [threading.Thread(target=post, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs.drain()
    assert sorted(found.values()) == [200, 409, 409, 409]
    assert found[jobs.task("t").result] == 200


# --- Faults --------------------------------------------------------------------------------------------------------


def test_an_unavailable_database_asks_for_another_try(
    jobs: JobTester, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    button, _ = asked(jobs, "t")

    def refuse(*_: Any) -> None:
        raise DatabaseUnavailableError("the database is unavailable: refused")

    with monkeypatch.context() as patched:
        patched.setattr(Producer, "signal", refuse)
        answer = send("POST", button)
        assert (answer.status, answer.headers["retry-after"], send("GET", button).status) == (503, "5", 200)
    assert send("POST", button).status == 200


# --- Logs ----------------------------------------------------------------------------------------------------------


@contextmanager
def everything() -> Iterator[list[str]]:
    """Collect each line of each logger."""
    lines: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(f"{self.format(record)} {record.__dict__}")

    collect, root = Collect(), logging.getLogger()
    named = [logging.getLogger(name) for name in ("uvicorn", "uvicorn.access", "uvicorn.error", "jobs", "asyncio")]
    levels = [(logger, logger.level) for logger in (root, *named)]
    for logger, _ in levels:
        logger.addHandler(collect)
        logger.setLevel(logging.DEBUG)
    try:
        yield lines
    finally:
        for logger, level in levels:
            logger.removeHandler(collect)
            logger.setLevel(level)


def served(app: FastAPI, requests: Any) -> None:
    """Run uvicorn with its access log, and ``requests`` with its port in a thread."""

    async def main() -> None:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=True))
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await asyncio.to_thread(requests, server.servers[0].sockets[0].getsockname()[1])
        finally:
            server.should_exit = True
            await serving

    asyncio.run(main())


def test_no_log_has_a_token(
    jobs: JobTester,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outer = application()
    outer.mount("/mounted", inner := FastAPI())
    inner.include_router(joblane.fastapi.signals, prefix="/api")
    button, open_ = (url.removeprefix("https://signals.test") for url in asked(jobs, "t"))
    needles = {url[len("/signals/v1.") :][part : part + 24] for url in (button, open_) for part in range(0, 96, 24)}
    statuses: set[int] = set()

    def requests(port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        for path in (button, f"{button}/", f"{button}?x={button[-30:]}", f"/mounted/api{button}", open_):
            for method in ("GET", "HEAD", "OPTIONS", "PROPFIND", "PUT", "POST"):
                connection.request(method, path, body=b"nothing" if method == "POST" else None)
                answer = connection.getresponse()
                answer.read()
                statuses.add(answer.status)
        with monkeypatch.context() as patched:
            patched.delenv(SIGNAL_KEYS)
            connection.request("GET", button)
            statuses.add(connection.getresponse().status)
        connection.close()

    inner.state.joblane = jobs.client
    with everything() as lines:
        served(outer, requests)
    assert statuses == {200, 400, 404, 405, 500}
    said = "\n".join([*lines, *capfd.readouterr()])
    assert sum('"GET /signals/- HTTP/1.1" 200' in line for line in lines) > 2
    assert "MissingSettingError" in said
    assert [needle for needle in needles if needle in said] == []
    assert [row for row in rows(jobs) if any(needle in str(row) for needle in needles)] == []
