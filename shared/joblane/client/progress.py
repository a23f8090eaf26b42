"""Streams of the state and the progress of tasks, as server-sent events, for each web framework.

All streams of a client share one thread, which reads their tasks in one statement a second. A stream keeps the latest
state only, however slowly its reader takes it. The id of an event is a digest of its data, so that a browser that
reconnects, to any process, gets no event that it has shown.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from http import HTTPStatus
from typing import Any
from weakref import WeakSet

from joblane import telemetry
from joblane.errors import DatabaseUnavailableError, text_of
from joblane.forking import follow_forks
from joblane.record.row.states import ENDED
from joblane.sqs.message import ID_PATTERN

TICK_SECONDS = 1
MAX_STREAMS = 200
LONGEST_SECONDS = 15 * 60
"""A stream ends after this time, and the browser opens the next one. So a user whose rights have ended loses it."""
KEEP_ALIVE_SECONDS = 15
"""A stream without an event sends a comment. Proxies end a connection that is silent for 60 s. Source: Application Load
Balancers, *Edit attributes*, idle timeout."""
RETRY = b"retry: 2000\n\n"
"""The milliseconds after which a browser reconnects. Source: HTML, *Server-sent events*."""
COMMENT = b":\n\n"
MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no", "X-Content-Type-Options": "nosniff"}
"""``X-Accel-Buffering``: nginx would keep events back. Source: nginx, *ngx_http_proxy_module*, proxy_buffering."""


class NoStreamError(Exception):
    """A request gets no stream, but this answer."""

    def __init__(self, status: HTTPStatus, message: str = "", retry_seconds: int = 0) -> None:
        super().__init__(message)
        self.status, self.message = status, message
        self.headers = {"Cache-Control": "no-store"} | ({"Retry-After": str(retry_seconds)} if retry_seconds else {})


@dataclass(frozen=True, slots=True)
class StateEvent:
    """The state of a task, as an event."""

    id: str
    chunk: bytes
    is_last: bool

    @classmethod
    def of(cls, row: Sequence[Any]) -> StateEvent:
        """From a row of :data:`~joblane.record.task.status.PROGRESS`, without its id."""
        state, attempts, done, total, note, wait, until = row
        data = json.dumps(
            {
                "state": state,
                "ended": state in ENDED,
                "done": done,
                "total": total,
                "note": note,
                "attempts": attempts,
                "wait": None if until is None else {"name": wait, "until": until.isoformat()},
            }
        )
        id_ = sha256(data.encode()).hexdigest()[:16]
        return cls(id_, f"id: {id_}\ndata: {data}\n\n".encode(), state in ENDED)


class Stream:
    """The events of one task for one reader.

    A reader first calls :meth:`wait`. Then it writes each chunk, and calls :meth:`close` at its end.
    """

    def __init__(self, streams: Streams, task_id: str, last_id: str | None) -> None:
        self.task_id = task_id
        self._streams, self._sent_id = streams, last_id
        self._event: StateEvent | None = None
        self._error: Exception | None = None
        self.is_read = False
        """True once the first read has answered."""
        self.is_complete = False
        """True if nothing can follow: the task has ended, or is gone."""
        self._head = RETRY
        self._woken = threading.Event()
        self.wake: Callable[[], None] = self._woken.set
        """Called by the thread that reads."""
        now = streams.clock()
        self.ends_at, self._comment_at = now + LONGEST_SECONDS, now + KEEP_ALIVE_SECONDS

    def put(self, event: StateEvent | None, error: Exception | None = None) -> None:
        """Take what was read. None: no task has the id. An error changes nothing but a stream that has no event."""
        if self.is_read and (error is not None or event == self._event):
            return
        self._event, self._error = event or self._event, error
        self.is_complete = event is None or event.is_last
        self.is_read = True
        self.wake()

    def wait(self) -> None:
        """Wait for the first read, up to a second. Raises as :meth:`check` does."""
        while not self.is_read:
            self._woken.wait()
        self.check()

    def check(self) -> None:
        """Check that there is something to send. Raises :class:`NoStreamError`, and the error of a wrong setting."""
        if (error := self._refusal()) is not None:
            self.close()
            raise error

    def _refusal(self) -> Exception | None:
        if isinstance(self._error, DatabaseUnavailableError):
            return NoStreamError(HTTPStatus.SERVICE_UNAVAILABLE, "the database is unavailable", 5)
        if self._error is None and self._event is None:
            return NoStreamError(HTTPStatus.NOT_FOUND, "no task has this id")
        if self._event is not None and self._event.is_last and self._event.id == self._sent_id:
            return NoStreamError(HTTPStatus.NO_CONTENT)  # a browser then stops to reconnect
        return self._error

    def take(self) -> bytes | None:
        """Return the next chunk. Empty: nothing yet. None: the end."""
        now, head, self._head = self._streams.clock(), self._head, b""
        is_complete, event = self.is_complete, self._event  # in this order, or the last event could be left out
        if event is not None and event.id != self._sent_id:
            self._sent_id = event.id
            head += event.chunk
        elif not head and (is_complete or now >= self.ends_at):
            return None
        elif not head and now >= self._comment_at:
            head = COMMENT
        if head:
            self._comment_at = now + KEEP_ALIVE_SECONDS
        return head

    def pause(self) -> float:
        """Return the seconds after which :meth:`take` has a chunk, or the end, even if nothing changes."""
        return max(0.0, min(self._comment_at, self.ends_at) - self._streams.clock())

    def __iter__(self) -> Iterator[bytes]:
        while (chunk := self.take()) is not None:
            if chunk:
                yield chunk
            else:
                self._woken.wait(self.pause())
                self._woken.clear()

    def close(self) -> None:
        self._streams.remove(self)


class AwaitedStream:
    """The chunks of a stream, for an event loop."""

    def __init__(self, stream: Stream) -> None:
        self._stream, self.close = stream, stream.close
        self._woken: asyncio.Event | None = None

    async def wait(self) -> None:
        """Wait as :meth:`Stream.wait` does."""
        while not self._stream.is_read:
            await self._wake(None)
        self._stream.check()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (chunk := self._stream.take()) is not None:
            if chunk:
                yield chunk
            else:
                await self._wake(self._stream.pause())

    async def _wake(self, seconds: float | None) -> None:
        if self._woken is None:
            loop, woken = asyncio.get_running_loop(), asyncio.Event()

            def wake() -> None:
                with suppress(RuntimeError):  # the loop was closed
                    loop.call_soon_threadsafe(woken.set)

            self._woken, self._stream.wake = woken, wake
            return  # what came before did not wake this loop
        with suppress(TimeoutError):
            await asyncio.wait_for(self._woken.wait(), seconds)
        self._woken.clear()


class Streams:
    """The open streams of a client.

    A stream that its reader has lost is no longer counted, nor one whose reader takes nothing after its end.
    """

    def __init__(
        self, read: Callable[[list[str]], Sequence[Sequence[Any]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """``read``: runs :data:`~joblane.record.task.status.PROGRESS`. Raises :class:`DatabaseUnavailableError`."""
        self._read, self.clock = read, clock
        self._is_available = True
        self._renew()
        follow_forks(self, Streams._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._open: WeakSet[Stream] = WeakSet()
        self._thread: threading.Thread | None = None

    def open(self, task_id: str, last_id: str | None) -> Stream:
        """Open a stream. ``last_id``: the header ``Last-Event-ID``. Raises :class:`NoStreamError`."""
        if not isinstance(task_id, str):
            raise TypeError(f"task_id: a string is required, not {type(task_id).__name__}")
        if not ID_PATTERN.fullmatch(task_id):  # the database could refuse it, and with it the read of all streams
            raise NoStreamError(HTTPStatus.NOT_FOUND, "no task has this id")
        stream = Stream(self, task_id, last_id)
        with self._lock:
            if len(self._open) >= MAX_STREAMS:
                raise NoStreamError(HTTPStatus.SERVICE_UNAVAILABLE, f"this process has {MAX_STREAMS} streams", 10)
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="joblane-progress", daemon=True)
                thread.start()
                self._thread = thread
            self._open.add(stream)
        return stream

    def remove(self, stream: Stream) -> None:
        with self._lock:
            self._open.discard(stream)

    def _run(self) -> None:
        while self.tick():
            time.sleep(TICK_SECONDS)

    def tick(self) -> bool:
        """Read the tasks of all streams. False: no stream is open, and the thread ends."""
        with self._lock:
            latest = self.clock() - KEEP_ALIVE_SECONDS
            for stream in [stream for stream in self._open if stream.ends_at < latest]:
                self._open.discard(stream)
            streams = [*self._open]
            if not streams:
                self._thread = None
                return False
        streams = [stream for stream in streams if not stream.is_complete]
        if not streams:
            return True
        try:
            rows = self._read(sorted({stream.task_id for stream in streams}))
            events = {id_: StateEvent.of(row) for id_, *row in rows}
        except Exception as error:  # it decides the answers to new streams, and ends no other
            if self._is_available:
                telemetry.logger().warning("streams of progress cannot be read", extra={"error": text_of(error)})
            self._is_available = False
            for stream in streams:
                stream.put(None, error)
            return True
        self._is_available = True
        for stream in streams:
            stream.put(events.get(stream.task_id))
        return True
