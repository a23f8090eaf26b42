"""FastAPI: a client for the life of an application, the dependency that hands it to endpoints, the route of
signals, and streams of progress."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

from joblane.client.client import JobClient, streams_of
from joblane.errors import JobError
from joblane.forking import aend_process

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

try:
    from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
    from fastapi.concurrency import run_in_threadpool
    from fastapi.requests import HTTPConnection
    from fastapi.responses import Response, StreamingResponse
    from starlette.requests import ClientDisconnect
    from starlette.routing import Route
except ModuleNotFoundError as error:
    from joblane.installation import missing

    raise ModuleNotFoundError(missing(error.name or "fastapi", "fastapi"), name=error.name) from None


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open a client for the life of an application: ``FastAPI(lifespan=lifespan)``, or ``async with lifespan(app):`` in
    a lifespan of your own. Its end also closes resources, and exports the last spans.

    Starlette runs no lifespan of a mounted application; open its client in that of the outer one.
    """
    try:
        async with JobClient() as jobs:
            app.state.joblane = jobs
            yield
    finally:
        await aend_process()  # uvicorn ends its process by the signal, without Python's exit


async def client_of(connection: HTTPConnection) -> JobClient:
    """Return the client of the application. Raises :class:`JobError` if its :func:`lifespan` has not begun."""
    jobs = getattr(connection.app.state, "joblane", None)
    if not isinstance(jobs, JobClient):
        raise JobError(
            "this application has no client: use FastAPI(lifespan=joblane.fastapi.lifespan), or "
            "`async with joblane.fastapi.lifespan(app):` in your own lifespan"
        )
    return jobs


Jobs = Annotated[JobClient, Depends(client_of)]
"""The type of a parameter that gets the client of the application."""


class _Signals:
    """The endpoint of all methods of the route of signals."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from joblane.client.signal_route import HIDDEN_PATH, answer  # most applications have no such addresses

        request = Request(scope, receive)
        jobs, accept = await client_of(request), request.headers.get("accept")
        scope.update(path=HIDDEN_PATH, raw_path=HIDDEN_PATH.encode(), query_string=b"")  # uvicorn logs it at the answer
        try:
            body = await _body(request) if request.method == "POST" else b""
        except ClientDisconnect:
            return
        done = await run_in_threadpool(answer, jobs, request.method, request.path_params["token"], body, accept)
        await Response(done.body, done.status, dict(done.headers))(scope, receive, send)


async def _body(request: Request) -> bytes:
    """Return the body, or more than the 65,536 bytes of a signal if it is longer."""
    from joblane.enqueue.signals import MAX_SIGNAL_BYTES

    body, length = bytearray(), request.headers.get("content-length", "")
    if len(length) > len(str(MAX_SIGNAL_BYTES)):  # it is not read
        return bytes(MAX_SIGNAL_BYTES + 1)
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_SIGNAL_BYTES:
            break
    return bytes(body)


signals = APIRouter(routes=[Route("/signals/{token:path}", _Signals(), include_in_schema=False)])
"""The route ``/signals/TOKEN`` of the addresses that ``ctx.signal_url`` returns: ``app.include_router(signals)``. It
needs the setting ``JOBLANE_SIGNAL_KEYS``, and the :func:`lifespan`."""


def progress(task_id: str) -> Response:
    """Return a response with a stream of a task's state and progress, as server-sent events.

    An endpoint, plain or ``async def``, returns it after it has checked that the user may see the task. It needs the
    :func:`lifespan`. An event has no payload, result or error. The stream ends with the task, or after 15 minutes;
    a browser then reconnects. Without a task of this id the answer is 404. While the process has 200 streams, or
    the database is unavailable, it is 503.
    """
    return _Progress(task_id)


class _Progress(StreamingResponse):
    def __init__(self, task_id: str) -> None:
        from joblane.client.progress import HEADERS, MEDIA_TYPE  # most applications have no streams

        super().__init__((), headers=HEADERS, media_type=MEDIA_TYPE)
        self._task_id = task_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from joblane.client.progress import AwaitedStream, NoStreamError

        request = Request(scope)
        try:
            streams = streams_of(await client_of(request))
            stream = AwaitedStream(streams.open(self._task_id, request.headers.get("last-event-id")))
            try:
                await stream.wait()
                self.body_iterator = stream
                await super().__call__(scope, receive, send)
            finally:
                stream.close()
        except NoStreamError as none:
            raise HTTPException(none.status, none.message, none.headers) from None
