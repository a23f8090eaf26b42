"""Streams of progress in FastAPI, over PostgreSQL. Tests read by hand what a thread reads each second."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from textwrap import dedent
from typing import Any

import pytest
from fastapi import FastAPI, Response

import joblane.fastapi
from joblane import Payload, TaskContext, task
from joblane.client import progress
from joblane.client.client import client_within, streams_of
from joblane.client.progress import KEEP_ALIVE_SECONDS, LONGEST_SECONDS, MAX_STREAMS, StateEvent, Stream, Streams
from joblane.record.task.status import PROGRESS
from joblane.testing import JobTester
from joblane.testing.faults import HookedDatabase
from tests.logs import lines
from tests.patience import PATIENCE_SECONDS
from tests.streaming import Reader

SECRET, NOTE = "a value of the payload", "done\n\ndata: {}\u2028é"
REPORT = """
insert into joblane.task_progress (task_id, done, total, note) values ($1, $2::int, 4, $3)
on conflict (task_id) do update set done = excluded.done, note = excluded.note
"""
STARTED = {"state": "pending", "ended": False, "done": None, "total": None, "note": None, "attempts": 0, "wait": None}


class Bar(Payload):
    secret: str = SECRET


@task("bar:fill", max_retry=0)
def bar_fill(payload: Bar, ctx: TaskContext) -> str:
    ctx.progress(4, 4, NOTE)
    return payload.secret


@task("bar:ask", max_retry=0)
def bar_ask(payload: Payload, ctx: TaskContext) -> None:
    ctx.wait("approval", timeout=timedelta(days=1))


class Site:
    """An application, whose clock and reads belong to the test."""

    def __init__(self, jobs: JobTester) -> None:
        self.jobs, self.statements, self.now = jobs, 0, 1000.0
        self.fault: Exception | None = None
        self._database = HookedDatabase(jobs.url, self._statement)
        self.app = FastAPI()
        self.app.state.joblane = client_within(self._database, jobs._queues, "jobs")
        self.streams = streams_of(self.app.state.joblane)
        self.streams.clock = lambda: self.now

        @self.app.get("/{task_id:path}")
        def endpoint(task_id: str) -> Response:
            return joblane.fastapi.progress(task_id)

    def _statement(self, sql: str, run: Callable[[], Any]) -> Any:
        if sql == PROGRESS:
            self.statements += 1
            if self.fault is not None:
                raise self.fault
        return run()

    async def tick(self, seconds: float = 0) -> bool:
        """Let time pass, read once, and let each stream send what it has. False: no stream is open."""
        self.now += seconds
        is_open = await asyncio.to_thread(self.streams.tick)
        if seconds:
            for stream in self.streams._open:
                stream.wake()
        for _ in range(20):
            await asyncio.sleep(0)
        return is_open

    async def open(self, *ids: str, last_id: str | None = None) -> list[Reader]:
        """Open streams, and read once."""
        expected = len(self.streams._open) + len(ids)
        readers = [Reader(self.app, f"/{id_}", last_id) for id_ in ids]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.streams._open) < expected:  # the endpoints run in threads
                await asyncio.sleep(0.001)
        await self.tick()
        return readers

    def enqueue(self, *ids: str) -> None:
        for id_ in ids:
            self.jobs.enqueue(bar_fill, Bar(), task_id=id_)

    def report(self, id_: str, done: int, note: str | None = None) -> None:
        self.jobs._database.get().run(REPORT, id_, done, note)

    def run(self, sql: str, *parameters: Any) -> None:
        self.jobs._database.get().run(sql, *parameters)


@pytest.fixture
def site(jobs: JobTester, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setattr(Streams, "_run", lambda _: None)
    site = Site(jobs)
    yield site
    site._database.drop()


def test_all_streams_share_a_statement_and_get_each_change_once(site: Site) -> None:
    asyncio.run(_share(site))


async def _share(site: Site) -> None:
    site.enqueue("a", "b")
    # when
    readers = await site.open("a", "a", "a", "b")
    # then
    assert site.statements == 1
    assert [reader.events for reader in readers] == [[STARTED]] * 4
    assert readers[0].text.startswith("retry: 2000\n\nid: ")
    assert readers[0].headers == {
        "content-type": "text/event-stream; charset=utf-8",
        "cache-control": "no-store",
        "x-accel-buffering": "no",
        "x-content-type-options": "nosniff",
    }
    # and without a change there is no event
    await site.tick()
    site.report("a", 1)
    await site.tick()
    assert site.statements == 3
    changed = [STARTED, STARTED | {"done": 1, "total": 4}]
    assert [reader.events for reader in readers] == [*[changed] * 3, [STARTED]]
    # and the last event is the end
    await asyncio.to_thread(site.jobs.drain)
    await site.tick()
    for reader in readers:
        await reader.end()
        end = {"state": "completed", "ended": True, "done": 4, "total": 4, "attempts": 1, "note": NOTE}
        assert reader.events[-1] == STARTED | end
        assert SECRET not in reader.text
    assert (await site.tick(), site.statements) == (False, 4)  # the thread ends


def test_a_process_has_a_limited_number_of_streams(site: Site) -> None:
    async def main() -> None:
        site.enqueue("a")
        held = [site.streams.open("a", None) for _ in range(MAX_STREAMS - 1)]
        [reader] = await site.open("a")
        [refused] = [await Reader(site.app, "/a").end()]
        assert (MAX_STREAMS, reader.status, refused.status, refused.headers["retry-after"]) == (200, 200, 503, "10")
        held.pop().close()
        [late] = await site.open("a")
        # a reader that takes nothing loses its place after the end of its stream
        assert (await site.tick(LONGEST_SECONDS + KEEP_ALIVE_SECONDS + 1), len(site.streams._open)) == (False, 0)
        assert (late.status, len(held)) == (200, MAX_STREAMS - 2)
        for one in (reader, late):
            await one.leave()

    asyncio.run(main())


def test_a_wrong_id_is_not_found_and_spoils_no_other_stream(site: Site) -> None:
    async def main() -> None:
        site.enqueue("a")
        for id_ in ("ü", "\0", "x" * 10_000, ""):
            refused = await Reader(site.app, f"/{id_}").end()
            assert (refused.status, refused.headers["cache-control"]) == (404, "no-store")
        assert site.statements == 0
        found, unknown = await site.open("a", "unknown")
        await unknown.end()
        assert (found.status, unknown.status, site.statements) == (200, 404, 1)
        await found.leave()

    asyncio.run(main())
    with pytest.raises(TypeError, match="task_id: a string is required, not int"):
        site.streams.open(7, None)  # type: ignore[arg-type]


def test_a_stream_ends_after_15_minutes_and_resumes_without_a_repetition(site: Site) -> None:
    asyncio.run(_resume(site))


async def _resume(site: Site) -> None:
    site.enqueue("a")
    [reader] = await site.open("a")
    for _ in range(60):
        await site.tick(15)
    await reader.end()
    assert (LONGEST_SECONDS, reader.chunks[1:]) == (900, [b":\n\n"] * 59)
    # when the browser comes again
    [again] = await site.open("a", last_id=reader.last_id)
    assert (again.events, again.text) == ([], "retry: 2000\n\n")
    site.report("a", 2)
    await site.tick()
    assert [event["done"] for event in again.events] == [2]
    await again.leave()
    # a wrong id has the whole state
    for wrong in ("", "\xff", "x" * 10_000):
        [reader] = await site.open("a", last_id=wrong)
        assert [event["done"] for event in reader.events] == [2]
        await reader.leave()
    # after the end a browser stops
    await asyncio.to_thread(site.jobs.drain)
    [late] = await site.open("a", last_id=again.last_id)
    await late.end()
    [done] = await site.open("a", last_id=late.last_id)
    await done.end()
    assert ([event["ended"] for event in late.events], done.status, done.chunks) == ([True], 204, [])


def test_a_failure_of_the_database_ends_no_stream(site: Site) -> None:
    async def main() -> None:
        site.enqueue("a")
        [reader] = await site.open("a")
        site.fault = OSError("refused")
        with lines() as logged:
            [refused] = await site.open("a")
            await site.tick(KEEP_ALIVE_SECONDS)
        await refused.end()
        assert (refused.status, refused.headers["retry-after"]) == (503, "5")
        assert reader.chunks[-1] == b":\n\n"
        assert [line["message"] for line in logged.fields] == ["streams of progress cannot be read"]
        # and after it
        site.fault = None
        site.report("a", 3)
        await site.tick()
        assert [event["done"] for event in reader.events] == [None, 3]
        # another error is the request's
        site.fault = ZeroDivisionError()
        [wrong] = await site.open("a")
        with pytest.raises(ZeroDivisionError):
            await wrong.end()
        await reader.leave()
        assert not await site.tick()

    asyncio.run(main())


def test_a_stream_ends_with_the_deletion_of_its_task(site: Site) -> None:
    async def main() -> None:
        site.enqueue("a")
        [reader] = await site.open("a")
        site.run("delete from joblane.tasks")
        await site.tick()
        await reader.end()
        [again] = await site.open("a", last_id=reader.last_id)
        await again.end()
        assert (reader.events, again.status) == ([STARTED], 404)

    asyncio.run(main())


def test_a_task_that_waits_says_for_what(site: Site) -> None:
    async def main() -> None:
        site.jobs.enqueue(bar_ask, Payload(), task_id="a")
        await asyncio.to_thread(site.jobs.drain)
        [reader] = await site.open("a")
        wait = site.jobs.client.get("a").wait  # type: ignore[union-attr]
        assert wait is not None
        shown = {"name": "approval", "until": wait.until.isoformat()}
        assert reader.events == [STARTED | {"state": "scheduled", "wait": shown}]
        await reader.leave()

    asyncio.run(main())


def test_a_slow_reader_gets_the_latest_state_only(site: Site) -> None:
    async def main() -> None:
        site.enqueue("a")
        [slow, gone] = await site.open("a", "a")
        for reader in (slow, gone):
            reader.taken.clear()
        for done in range(4):
            site.report("a", done)
            await site.tick()
        slow.taken.set()
        await site.tick()
        # the first change was on its way
        assert [event["done"] for event in slow.events] == [None, 0, 3]
        # a reader leaves at once, also while it takes nothing
        await gone.leave()
        assert len(site.streams._open) == 1
        await slow.leave()
        assert (await site.tick(), len(site.streams._open)) == (False, 0)

    asyncio.run(main())


def test_the_last_event_is_sent_at_whatever_moment_it_comes(site: Site) -> None:
    site.enqueue("a")
    stream = site.streams.open("a", None)
    site.streams.tick()
    assert [stream.take(), stream.take()] == [b"retry: 2000\n\n" + _sent(stream), b""]

    class Racing(Stream):
        """The last event comes between the two look-ups of ``take``, in each order."""

        @property
        def is_complete(self) -> bool:
            self.__dict__["_event"] = LAST
            return True

        @is_complete.setter
        def is_complete(self, _: bool) -> None:
            pass

    stream.__class__ = Racing
    assert [stream.take(), stream.take()] == [LAST.chunk, None]


def _sent(stream: Stream) -> bytes:
    assert stream._event is not None
    return stream._event.chunk


LAST = StateEvent.of(["completed", 1, 4, 4, None, None, None])


# --- Planted faults ------------------------------------------------------------------------------------------------

PLANTS: list[tuple[str, str, str, Callable[[Site], None]]] = [
    (
        "tick",
        "self._read(sorted({stream.task_id for stream in streams}))",
        "[row for stream in streams for row in self._read([stream.task_id])]",
        test_all_streams_share_a_statement_and_get_each_change_once,
    ),
    (
        "take",
        "is_complete, event = self.is_complete, self._event",
        "event, is_complete = self._event, self.is_complete",
        test_the_last_event_is_sent_at_whatever_moment_it_comes,
    ),
    (
        "__init__",
        "self._streams, self._sent_id = streams, last_id",
        "self._streams, self._sent_id = streams, None",
        test_a_stream_ends_after_15_minutes_and_resumes_without_a_repetition,
    ),
    ("put", "error is not None or", "", test_a_failure_of_the_database_ends_no_stream),
    ("tick", "stream.ends_at < latest", "False", test_a_process_has_a_limited_number_of_streams),
]
"""Function, its code, the code of the fault, and the test that finds it."""


@pytest.mark.plants
@pytest.mark.parametrize(("function", "code", "fault", "finds"), PLANTS)
def test_planted_faults_are_found(
    site: Site, function: str, code: str, fault: str, finds: Callable[[Site], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Streams if function == "tick" else Stream
    source = dedent(inspect.getsource(getattr(owner, function)))
    assert source.count(code) == 1
    names: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + source.replace(code, fault), progress.__dict__, names)
    monkeypatch.setattr(owner, function, names[function])
    with pytest.raises((AssertionError, TimeoutError)):
        finds(site)
