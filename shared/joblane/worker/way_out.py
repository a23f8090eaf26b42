"""The reason of a connect timeout in a network without IPv4: the host has no IPv6 address.

Packets to such a host are dropped, so that the handler hangs until its client's timeout or its own. Only a run that
fails imports this module. It finds the host in the frames of the connecting function, because most clients do not name
it in their errors. A client in C, such as libpq or curl, has no such frame.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from asyncio import CancelledError
from collections.abc import Iterator, Mapping
from ipaddress import ip_address
from typing import Any

from pydantic import BaseModel

from joblane import telemetry
from joblane.errors import TaskTimeout
from joblane.tasks.scrubbing import shares_text
from joblane.worker.outcome import MAX_ERRORS

CONNECTING = {
    ("socket", "create_connection"): "host",
    ("urllib3.util.connection", "create_connection"): "host",
    ("asyncio.base_events", "create_connection"): "host",
    ("anyio._core._sockets", "connect_tcp"): "remote_host",
    ("aiohttp.connector", "_create_direct_connection"): "host",
}
"""Module and function that open a connection → their local variable with the host. http.client, smtplib, requests and
boto3 use the first two, httpx the first and anyio's, asyncpg asyncio's."""
A_HOST = "A host of the payload"
"""Instead of a name that may be a value."""
ENDED = (TimeoutError, TaskTimeout, CancelledError)
"""Errors that end a connection that gets no answer."""
RESOLVE_SECONDS = 1.0
"""The time for all hosts of a run."""
MAX_HOSTS = 1_000
GATEWAYS = ("s3", "dynamodb")
"""Services with a free gateway endpoint, which routes their IPv4 addresses of the region. Every new network has the
endpoint of S3. Source: Amazon VPC, *Gateway endpoints*."""
_advice: dict[str, str | None] = {}
"""Host → its advice. Each host is resolved, and logged, once for a process."""


def explain(
    error: BaseException,
    model: type[BaseModel],
    *payloads: Any,
    headers: Mapping[str, str],
    seconds: float,
    log_fields: Mapping[str, Any],
) -> str:
    """Return a line for each host without an IPv6 address at whose connection the run has ended.

    The first time in this process the line is also logged. It does not name a host that has text in common with a
    redacted value or a header. The log names no host that has text in common with a value of the ``payloads``.

    ``seconds``: the time that the invocation can spend on it.
    """
    found = ""
    until = time.monotonic() + min(RESOLVE_SECONDS, seconds)
    for host in dict.fromkeys(_hosts(error)):
        is_new = host not in _advice
        if is_new and len(_advice) < MAX_HOSTS and (left := until - time.monotonic()) > 0:
            _advice[host] = _advice_for(host, left)
        if (advice := _advice.get(host)) is None:
            continue
        given = list(headers.values())
        is_secret = shares_text(host, *payloads, model=model) or shares_text(host, given)
        found += f"{A_HOST if is_secret else host}{advice}\n"
        if is_new:
            is_value = is_secret or shares_text(host, *payloads)
            telemetry.logger().warning(f"{A_HOST if is_value else host}{advice}", extra=dict(log_fields))
    return found


def _advice_for(host: str, seconds: float) -> str | None:
    """Return what is wrong with the host, and what to do.

    None if it has an IPv6 address, or one inside of a network, or if a gateway endpoint may route it.
    """
    region = os.environ.get("AWS_REGION")
    name = f".{host.lower().rstrip('.')}"
    if name.endswith(tuple(f".{service}.{region}.amazonaws.com" for service in GATEWAYS)):
        return None
    found = [ip_address(address.partition("%")[0]) for address in _addresses(host, seconds)]
    if not found or any(address.version == 6 or not address.is_global for address in found):
        return None
    return (
        " has no IPv6 address, and this stage has no IPv4 way out, so no connection to it can succeed. Set"
        ' network.egress in cdk.json to "nat_instance" or "nat", and deploy; in an existing network, give its subnets a'
        " NAT gateway first"
    )


def _addresses(host: str, seconds: float) -> list[str]:
    """Return the addresses of a host; none if it cannot be resolved in time."""
    found: list[str] = []

    def resolve() -> None:
        try:
            found.extend(str(each[4][0]) for each in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError):
            return

    thread = threading.Thread(target=resolve, name="joblane-resolve", daemon=True)
    thread.start()
    thread.join(seconds)
    return [] if thread.is_alive() else found


def _hosts(error: BaseException) -> Iterator[str]:
    """Yield the hosts to which connections were being opened when an error of the chain was raised."""
    waiting, seen = [error], {id(error)}
    while waiting and len(seen) < MAX_ERRORS:
        link = waiting.pop()
        if isinstance(link, ENDED):
            yield from _in_frames(link)
        members = link.exceptions if isinstance(link, BaseExceptionGroup) else ()
        context = None if link.__suppress_context__ else link.__context__
        for other in (link.__cause__, context, *members):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                waiting.append(other)


def _in_frames(error: BaseException) -> Iterator[str]:
    at = error.__traceback__
    while at is not None:
        frame = at.tb_frame
        name = CONNECTING.get((frame.f_globals.get("__name__", ""), frame.f_code.co_name))
        host = frame.f_locals.get(name) if name else None
        if host and isinstance(host, str):
            yield host
        at = at.tb_next
