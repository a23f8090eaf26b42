"""Sends messages at less than half of boto3's CPU. boto3 handles every answer that is not a plain success.

boto3 makes the first request of each operation. Later ones are copies with a new body, time and signature. They use the
connections of the same client, and so its proxy, certificates and time limits. If a request fails, or if SQS does not
accept every message, boto3 takes the answer or error as the result of its own first try, and tries again or raises.

boto3 makes all requests if something else observes them (moto, a tracer, a recorder), and if a name of botocore or
urllib3 that this module uses is missing or takes other arguments. A trial uses each name when the first request is
copied, so that none fails after a message was sent. With ``JOBLANE_SENDER=boto3`` this module is not used.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import time
from dataclasses import dataclass
from hashlib import sha256
from inspect import signature
from operator import is_
from types import FunctionType, SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore import client as botocore_client
from botocore import endpoint as botocore_endpoint
from botocore import handlers as botocore_handlers
from botocore import httpsession
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    HTTPClientError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.retries import standard
from pydantic_core import from_json
from urllib3 import Retry
from urllib3 import exceptions as urllib3_errors

from joblane import settings
from joblane.sqs.boto3_sender import MISMATCH, TRACE, Boto3Sender, log_fallback
from joblane.telemetry import TRACE_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from botocore.credentials import Credentials
    from mypy_boto3_sqs import SQSClient
    from urllib3 import HTTPConnectionPool

CONSTANT = ("botocore.", "boto3.", "aws_lambda_powertools.", __name__)
"""Modules whose handlers of events add the same to each request. Powertools adds its name to ``User-Agent``."""
EVENTS = (
    "provide-client-params",
    "before-parameter-build",
    "before-call",
    "request-created",
    "before-sign",
    "before-send",
    "response-received",
    "before-parse",
    "needs-retry",
    "after-call",
)
"""The events of a request in botocore. They are not sent for a request that boto3 does not make."""
PORTS = {"https": ":443", "http": ":80"}
ERRORS: Sequence[tuple[Any, Any]] = (
    (urllib3_errors.SSLError, SSLError),
    ((urllib3_errors.NewConnectionError, socket.gaierror), EndpointConnectionError),
    (urllib3_errors.ProxyError, ProxyConnectionError),
    (urllib3_errors.ConnectTimeoutError, ConnectTimeoutError),
    (urllib3_errors.ReadTimeoutError, ReadTimeoutError),
    (urllib3_errors.ProtocolError, ConnectionClosedError),
)
OPENTELEMETRY = "opentelemetry.instrumentation.botocore"
NO_RETRIES = Retry(False)
CALLERS = ("botocore.client", "botocore.endpoint", "botocore.httpsession", "botocore.context")
ALGORITHM, SCOPE_END = "AWS4-HMAC-SHA256", "aws4_request"
AUTHORIZATION, DATE, TOKEN = "Authorization", "X-Amz-Date", "X-Amz-Security-Token"
INVOCATION, TRY, LENGTH = "amz-sdk-invocation-id", "amz-sdk-request", "Content-Length"
FIRST_TRY = "attempt=1"
ANSWERS = frozenset({"MessageId", "Successful", "Attributes"})
"""Fields of an answer, of which a success has one."""
NO_RESULT: tuple[bytes, HTTPClientError | AWSResponse | None] = b"", None
ACCEPTED = SimpleNamespace(status_code=200)
"""The answer for which boto3 returns 1 to its quota of retries."""


class ObservedError(Exception):
    """Something else observes boto3's requests, so boto3 makes all of them."""


@dataclass(frozen=True, slots=True)
class Template:
    """boto3's request of one operation.

    ``pool``: the client's connections to SQS or to its proxy. ``target``: the target of the request line, a path, or a
    URL if a proxy forwards the request. ``proxy``: its URL without its password. ``host``: the header that a connection
    sets. ``signed``: the signed headers in order, name in lower case → name in ``headers``. ``scope``: region and
    service of the signing key. ``quota``: the client's quota of retries, to which each success returns 1. ``handlers``:
    the cache of the client's event handlers. Each registration replaces it. ``calls``: see :func:`_calls`.
    """

    pool: HTTPConnectionPool
    url: str
    target: str
    proxy: str | None
    path: str
    host: str
    headers: Mapping[str, str]
    signed: Mapping[str, str]
    scope: tuple[str, str]
    credentials: Credentials
    quota: standard.RetryQuotaChecker
    handlers: object
    calls: tuple[Any, ...]

    @classmethod
    def of(cls, request: AWSPreparedRequest, client: Any, operation: str) -> Template:
        """Read a signed request that ``client`` is about to send.

        Raises :class:`ObservedError` if a handler outside of :data:`CONSTANT` receives the events of a request, or if
        boto3's calls are not its own; another error if this module would make the request otherwise.
        """
        emitter, http, cache = client.meta.events._emitter, client._endpoint.http_session, _handlers(client)
        handlers = [one for event in EVENTS for one in emitter._handlers.prefix_search(f"{event}.sqs.{operation}")]
        for one in handlers:
            if not (getattr(one, "__module__", None) or "").startswith(CONSTANT):
                raise ObservedError
        owners = {getattr(one, "__self__", None) for one in handlers}
        (quota,) = [owner for owner in owners if isinstance(owner, standard.RetryQuotaChecker)]
        headers = {name: value if isinstance(value, str) else value.decode() for name, value in request.headers.items()}
        algorithm, _, fields = headers[AUTHORIZATION].partition(" ")
        parts = dict(field.split("=", 1) for field in fields.split(", "))
        _, _, region, service, end = parts["Credential"].rsplit("/", 4)
        if (request.method, algorithm, end) != ("POST", ALGORITHM, SCOPE_END):
            raise ValueError(headers[AUTHORIZATION])
        calls = _calls()
        if not all(type(call) is FunctionType and call.__globals__.get("__name__") in CALLERS for call in calls):
            raise ObservedError
        if request.body != _json(json.loads(request.body)):  # type: ignore[arg-type]
            raise ValueError(request.body)
        url, names = urlsplit(request.url), {name.lower(): name for name in headers}
        host = url.netloc.rpartition("@")[2].lower().removesuffix(PORTS[url.scheme])
        proxy = http._proxy_config.proxy_url_for(request.url)
        pool = http._get_connection_manager(request.url, proxy).connection_from_url(request.url)
        http._setup_ssl_cert(pool, request.url, http._verify)
        return cls(
            pool=pool,
            url=request.url,
            target=http._get_request_target(request.url, proxy),
            proxy=proxy and httpsession.mask_proxy_url(proxy),
            path=url.path or "/",
            host=host,
            headers=headers,
            signed={name: names.get(name, name) for name in parts["SignedHeaders"].split(";")},
            scope=(region, service),
            credentials=client._request_signer._credentials,
            quota=quota,
            handlers=cache,
            calls=calls,
        )

    def send(self, headers: Mapping[str, str], body: bytes) -> tuple[int, Any, bytes]:
        """Send a request as ``URLLib3Session.send`` does. Return status, headers and content of the answer.

        Raises urllib3's errors.
        """
        answer = self.pool.urlopen(**self._request(headers, body))
        return answer.status, answer.headers, b"".join(answer.stream())

    def _request(self, headers: Mapping[str, str], body: bytes) -> Mapping[str, Any]:
        """Return the arguments of a request, by keywords, as tracers of urllib3 expect."""
        return {
            "method": "POST",
            "url": self.target,
            "body": body,
            "headers": headers,
            "retries": NO_RETRIES,
            "assert_same_host": False,
            "preload_content": False,
            "decode_content": False,
            "enforce_content_length": False,
        }

    def accepted(self) -> None:
        """Refill the quota of retries after a success."""
        self.quota.release_retry_quota({}, ACCEPTED)  # type: ignore[arg-type]

    def answer(self, status: int, headers: Any, content: bytes) -> AWSResponse:
        """Return boto3's form of an answer that is not a plain success."""
        raw: Any = _Read(content)
        return AWSResponse(self.url, status, headers, raw)

    def error(self, error: Exception) -> HTTPClientError:
        """Return botocore's error for one of urllib3. Source: botocore, ``URLLib3Session.send``."""
        kind: Any = next((ours for theirs, ours in ERRORS if isinstance(error, theirs)), HTTPClientError)
        translated: HTTPClientError = kind(endpoint_url=self.url, proxy_url=self.proxy, error=error)
        return translated

    def try_out(self) -> None:
        """Use each name that a send uses after its message may have been sent. Raises the error of the first one."""
        signature(self.pool.urlopen).bind(**self._request({}, b""))
        self.accepted()
        if self.answer(200, {}, b"-").content != b"-" or _success(200, b'{"MessageId": "1"}') is None:
            raise TypeError(AWSResponse)
        self.error(OSError())


class Sender(Boto3Sender):
    """Makes the requests itself, after boto3's first one. See the module.

    ``_first`` also has ``result``: the body of a message, and what boto3 takes as the result of its first try.
    """

    def __init__(self, client: SQSClient) -> None:
        self._templates: dict[str, Template | None] = {}
        """None: boto3 makes all requests of the operation."""
        self._key: tuple[tuple[str, str, tuple[str, str]], bytes] = (("", "", ("", "")), b"")
        super().__init__(client)

    def send(self, operation: str, arguments: Mapping[str, Any], *, keeps_chain: bool = True) -> Mapping[str, Any]:
        template = self._templates.get(operation)
        # by identity: a tracer's wrapper equals the call in it
        if template is None or not all(map(is_, template.calls, _calls())):
            return self._by_boto3(operation, arguments, keeps_chain)
        try:
            keys = template.credentials.get_frozen_credentials()
            fits = template.handlers is _handlers(self.client) and bool(keys.token) == (TOKEN in template.headers)
            if fits:
                body = _json(arguments)
                headers = self._headers(template, keys, body, keeps_chain)
            else:
                self._templates.pop(operation, None)
        except MISMATCH:  # a binary attribute; nothing was sent
            fits = False
        if not fits:
            return self._by_boto3(operation, arguments, keeps_chain)
        result: HTTPClientError | AWSResponse
        try:
            status, received, content = template.send(headers, body)
        except MISMATCH as error:  # SQS may have accepted the message, so nothing sends it once more here
            self._templates[operation] = None
            log_fallback(error)
            return {}
        except Exception as error:
            result = template.error(error)
        else:
            if (answer := _success(status, content)) is not None:
                template.accepted()
                return answer
            result = template.answer(status, received, content)
        try:
            self._first.result = body, result
            return self._by_boto3(operation, arguments, keeps_chain)
        finally:
            self._first.result = NO_RESULT

    def _before_send(self, request: AWSPreparedRequest, event_name: str, **_: object) -> Any:
        """Return the result of the first try, if there is one. Otherwise boto3 sends, and this request is copied."""
        super()._before_send(request, event_name)
        body, result = getattr(self._first, "result", NO_RESULT)
        if result is None or body != request.body:  # a signal handler may send another message
            operation = event_name.rpartition(".")[2]
            if operation not in self._templates and FIRST_TRY in str(request.headers.get(TRY)):
                self._templates[operation] = self._template(request, operation)
            return None
        self._first.result = NO_RESULT
        if isinstance(result, Exception):
            raise result
        return result

    def _template(self, request: AWSPreparedRequest, operation: str) -> Template | None:
        """Return the copy of boto3's request, or None if this module would make another request than boto3."""
        try:
            body: Any = request.body
            template = Template.of(request, self.client, operation)
            keys = template.credentials.get_frozen_credentials()
            signed = self._signed(template, keys, dict(template.headers), body)
            # each name that a send uses, so that another botocore fails here
            self._headers(template, keys, body, keeps_chain=True)
            botocore_handlers.add_recursion_detection_header({"headers": {}})
            template.try_out()
            if signed != template.headers:
                raise ValueError(template.signed)
        except Exception as error:
            if isinstance(error, (*MISMATCH, LookupError, ValueError)):
                log_fallback(error)
            return None
        return template

    def _headers(self, template: Template, keys: Any, body: bytes, keeps_chain: bool) -> dict[str, str]:
        headers = dict(template.headers)
        headers[DATE] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers[INVOCATION] = _uuid()
        headers[LENGTH] = str(len(body))
        trace: dict[str, str] = {}
        if keeps_chain and TRACE_VARIABLE in os.environ:
            botocore_handlers.add_recursion_detection_header({"headers": trace})
        if not trace:
            headers.pop(TRACE, None)
        headers.update(trace)
        return self._signed(template, keys, headers, body)

    def _signed(self, template: Template, keys: Any, headers: dict[str, str], body: bytes) -> dict[str, str]:
        """Sign ``headers``, and return them. Source: AWS IAM, *Create a signed AWS API request*."""
        if keys.token:
            headers[TOKEN] = keys.token
        at, names, values = headers[DATE], ";".join(template.signed), {**headers, "host": template.host}
        lines = [f"{name}:{values[header]}" for name, header in template.signed.items()]
        asked = "\n".join(("POST", template.path, "", *lines, "", names, sha256(body).hexdigest()))
        region, service = template.scope
        scope = f"{at[:8]}/{region}/{service}/{SCOPE_END}"
        text = "\n".join((ALGORITHM, at, scope, sha256(asked.encode()).hexdigest()))
        key = self._signing_key(at[:8], str(keys.secret_key), template.scope)
        signed = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{keys.access_key}/{scope}"
        headers[AUTHORIZATION] = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signed}"
        return headers

    def _signing_key(self, day: str, secret: str, scope: tuple[str, str]) -> bytes:
        """Return the key of a day, which is kept for the next request."""
        made_of, key = self._key
        if made_of != (day, secret, scope):
            key = f"AWS4{secret}".encode()
            for part in (day, *scope, SCOPE_END):
                key = hmac.digest(key, part.encode(), "sha256")
            self._key = (day, secret, scope), key
        return key


def _uuid() -> str:
    """Return a UUID of version 4, in a third of the time of ``uuid.uuid4``."""
    digits = os.urandom(16).hex()
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-a{digits[17:20]}-{digits[20:]}"


def _json(arguments: Mapping[str, Any]) -> bytes:
    return json.dumps(arguments).encode()


def _handlers(client: Any) -> object:
    """Return the cache of the client's event handlers."""
    return client.meta.events._emitter._lookup_cache


def _calls() -> tuple[Any, ...]:
    """Return the calls of boto3 that tracers wrap and tests replace."""
    call = botocore_client.BaseClient._make_api_call  # type: ignore[attr-defined]
    return (
        call if type(call) is FunctionType else _without_opentelemetry(call),
        botocore_endpoint.Endpoint.make_request,
        httpsession.URLLib3Session.send,
    )


def _without_opentelemetry(call: Any) -> Any:
    """Return the call in OpenTelemetry's wrapper: with ``JOBLANE_OTEL=1`` an enqueue has a span of its own."""
    wrapper = str(getattr(getattr(call, "_self_wrapper", None), "__module__", ""))
    return call.__wrapped__ if wrapper.startswith(OPENTELEMETRY) and settings.is_on(settings.OTEL) else call


def _success(status: int, content: bytes) -> Mapping[str, Any] | None:
    """Return the answer if SQS has accepted every message, or has returned attributes."""
    if status != 200:
        return None
    try:
        answer: dict[str, Any] = from_json(content, cache_strings="keys")  # in a fifth of the time of json.loads
    except ValueError:
        return None
    accepted = isinstance(answer, dict) and not answer.get("Failed") and not ANSWERS.isdisjoint(answer)
    return answer if accepted else None


@dataclass(frozen=True, slots=True)
class _Read:
    """Gives ``AWSResponse`` the content of an answer that was read already."""

    content: bytes

    def stream(self) -> Iterator[bytes]:
        yield self.content
