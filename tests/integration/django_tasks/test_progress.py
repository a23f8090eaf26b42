"""Streams of progress in Django, by WSGI and by ASGI, with the thread that reads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.db import connection
from django.test import Client, override_settings
from django.urls import path

from joblane import Payload, TaskContext, task
from joblane.client import progress as streaming
from joblane.client.client import streams_of
from joblane.django import views
from joblane.errors import DatabaseUnavailableError
from joblane.testing import JobTester
from tests.patience import PATIENCE_SECONDS, await_true
from tests.streaming import Reader


@task("bar:fill", max_retry=0)
def bar_fill(payload: Payload, ctx: TaskContext) -> None:
    ctx.progress(4, 4)


def refuse(_: object) -> Any:
    raise DatabaseUnavailableError("the database is unavailable: refused")


opened: list[Any] = []
"""The connections of the view."""


def progress(request: Any, task_id: str) -> Any:
    connection.ensure_connection()  # as a check of the owner does
    opened.append(connection.connection)
    return views.progress(request, task_id)


urlpatterns = [path("<path:task_id>", progress)]


@pytest.fixture
def streams(shop: Any, jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> Iterator[streaming.Streams]:
    monkeypatch.setattr(streaming, "TICK_SECONDS", 0.01)
    connection.close()
    monkeypatch.setitem(connection.settings_dict, "CONN_MAX_AGE", 0)  # the default of Django
    jobs.enqueue(bar_fill, Payload(), task_id="a")
    streams = streams_of(views._client())
    with override_settings(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["testserver"], MIDDLEWARE=[]):
        yield streams
    await_true(lambda: streams._thread is None, lambda: "the thread did not end")


def test_a_stream_holds_a_thread_of_wsgi_until_the_end_of_its_task(
    streams: streaming.Streams, jobs: JobTester, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = Client()
    response = client.get("/a")
    assert {name.lower(): value for name, value in response.items()} == {
        "content-type": "text/event-stream",
        **{name.lower(): value for name, value in streaming.HEADERS.items()},
    }
    chunks = iter(response)
    assert b'"state": "pending"' in next(chunks)
    assert opened.pop().closed
    assert client.get("/unknown").status_code == 404
    with monkeypatch.context() as patched:
        patched.setattr(streams, "_read", refuse)
        refused = client.get("/a")
        assert (refused.status_code, refused["Retry-After"], len(streams._open)) == (503, "5", 1)
    with monkeypatch.context() as patched:
        patched.setattr(streaming, "MAX_STREAMS", 1)
        refused = client.get("/a")
        assert (refused.status_code, refused["Retry-After"]) == (503, "10")
    jobs.drain()
    *_, last = chunks
    assert b'"ended": true' in last
    # and a response that is closed early is not counted
    client.get("/a").close()
    response.close()
    assert len(streams._open) == 0


def test_a_stream_holds_no_thread_of_asgi(streams: streaming.Streams, jobs: JobTester) -> None:
    opened.clear()

    async def main() -> None:
        app = get_asgi_application()
        readers = [Reader(app, "/a") for _ in range(3)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while not all(reader.chunks for reader in readers):
                await asyncio.sleep(0.01)
        assert [each.closed for each in opened] == [True] * 3
        assert [event["state"] for reader in readers for event in reader.events] == ["pending"] * 3
        assert sum(thread.name == "joblane-progress" for thread in threading.enumerate()) == 1
        await readers[0].leave()
        assert len(streams._open) == 2
        await asyncio.to_thread(jobs.drain)
        for reader in readers[1:]:
            await reader.end()
            assert reader.events[-1]["ended"] is True
        # a browser that leaves before the first read has no stream either
        await Reader(app, "/a").leave()

    asyncio.run(main())
