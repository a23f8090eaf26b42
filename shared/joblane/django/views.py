"""The view of the addresses that ``ctx.signal_url`` returns. It needs no application and no setting of Django."""

from __future__ import annotations

from functools import cache
from typing import Any

from django.http import HttpResponse
from django.views.decorators.csrf import csrf_exempt

from joblane.client.client import JobClient
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


@cache
def _client() -> JobClient:
    return JobClient()
