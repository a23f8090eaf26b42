"""The view of the addresses that ``ctx.signal_url`` returns, and streams of progress for views of an application. They
need no application and no setting of Django."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.db import close_old_connections
from django.http import HttpResponse, StreamingHttpResponse
from django.views.decorators.csrf import csrf_exempt

from joblane.client.client import JobClient, streams_of
from joblane.client.signal_route import HIDDEN_PATH, answer
from joblane.enqueue.signals import MAX_SIGNAL_BYTES


@csrf_exempt  # type: ignore[untyped-decorator]  # the token permits the request, and no cookie does
def signal(request: Any, token: str) -> Any:
    """Answer the route of signals: ``path("signals/<path:token>", signal)``.

    The signal commits by itself, on a connection to ``DATABASE_URL``. The setting ``JOBLANE_SIGNAL_KEYS`` is required.
    """
    request.path = request.path_info = request.META["PATH_INFO"] = HIDDEN_PATH  # Django logs it with a status of 4xx
    body = request.read(MAX_SIGNAL_BYTES + 1) if request.method == "POST" else b""
    done = answer(_client(), request.method, token, body, request.headers.get("accept"))
    return HttpResponse(done.body, status=done.status, headers=dict(done.headers))


def progress(request: Any, task_id: str) -> Any:
    """Return a response with a stream of a task's state and progress, as server-sent events.

    A plain view returns it after it has checked that the user may see the task. It reads by ``DATABASE_URL``. An event
    has no payload, result or error. The stream ends with the task, or after 15 minutes; a browser then reconnects.
    Without a task of this id the answer is 404. While the process has 200 streams, or the database is
    unavailable, it is 503. Under ASGI a stream holds no thread. Under WSGI it holds a thread of the server.
    """
    from joblane.client.progress import HEADERS, MEDIA_TYPE, AwaitedStream, NoStreamError  # most have no streams

    try:
        stream = streams_of(_client()).open(task_id, request.headers.get("Last-Event-ID"))
        stream.wait()
    except NoStreamError as none:
        return HttpResponse(none.message, "text/plain", none.status, headers=none.headers)
    close_old_connections()  # the view's would stay open as long as the response
    chunks = AwaitedStream(stream) if hasattr(request, "scope") else stream
    return StreamingHttpResponse(chunks, MEDIA_TYPE, headers=HEADERS)


@cache
def _client() -> JobClient:
    return JobClient()
