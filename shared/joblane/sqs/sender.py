"""Sends of messages at less than half of boto3's CPU. boto3 decides whatever is not a plain success.

boto3 makes the first request of each operation. Later ones copy it: the same URL and headers, with a new body, time and
signature, through the connections of the same client, and so with its proxy, certificates and time limits. An answer
other than HTTP 200 with every message accepted, and any error, go to boto3 as the result of its own first try: it tries
again or raises as it always does.

boto3 makes all requests if something else listens to them, as moto, tracers and recorders do, or with
``JOBLANE_SENDER=boto3``.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from hashlib import sha256
from types import FunctionType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore import client as botocore_client
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
from botocore.handlers import add_recursion_detection_header
from botocore.httpsession import mask_proxy_url
from urllib3 import Retry
from urllib3 import exceptions as urllib3_errors

from joblane.settings import SENDER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from botocore.credentials import Credentials, ReadOnlyCredentials
    from mypy_boto3_sqs import SQSClient
    from urllib3 import BaseHTTPResponse, HTTPConnectionPool

CONSTANT = ("botocore.", "boto3.", "aws_lambda_powertools.", __name__)
"""Modules whose handlers of events add the same to each request. Powertools adds its name to ``User-Agent``."""
METHODS = {"SendMessage": "send_message", "SendMessageBatch": "send_message_batch"}
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
PORTS = {"https": 443, "http": 80}
ERRORS: Sequence[tuple[Any, Any]] = (
    (urllib3_errors.SSLError, SSLError),
    ((urllib3_errors.NewConnectionError, socket.gaierror), EndpointConnectionError),
    (urllib3_errors.ProxyError, ProxyConnectionError),
    (urllib3_errors.ConnectTimeoutError, ConnectTimeoutError),
    (urllib3_errors.ReadTimeoutError, ReadTimeoutError),
    (urllib3_errors.ProtocolError, ConnectionClosedError),
)
NO_RETRIES = Retry(False)
ALGORITHM, SCOPE_END = "AWS4-HMAC-SHA256", "aws4_request"
AUTHORIZATION, DATE, TOKEN = "Authorization", "X-Amz-Date", "X-Amz-Security-Token"
TRACE, INVOCATION, LENGTH = "X-Amzn-Trace-Id", "amz-sdk-invocation-id", "Content-Length"
REFILL = 30
"""boto3 makes this many requests itself after each call that it took over. Each success returns 1 to its quota of
retries, of which the two retries of a failed call have taken 28. Source: botocore, ``retries/standard.py``."""


@dataclass(frozen=True, slots=True)
class Template:
    """boto3's request of one operation.

    ``pool``: the client's connections to SQS or to its proxy. ``target``: what they ask for, a path, or a URL if a
    proxy forwards it. ``host``: the header that a connection sets. ``signed``: the names of the signed headers in
    order, in lower case → in ``headers``. ``scope``: region and service of the signing key.
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

    @classmethod
    def of(cls, request: AWSPreparedRequest, http: Any) -> Template:
        """Read a signed request that ``http`` is about to send, botocore's ``URLLib3Session`` of the client.

        Raises ``ValueError`` or ``LookupError`` if it is not signed as this module signs.
        """
        headers = {name: value if isinstance(value, str) else value.decode() for name, value in request.headers.items()}
        algorithm, _, fields = headers[AUTHORIZATION].partition(" ")
        parts = dict(field.split("=", 1) for field in fields.split(", "))
        _, _, region, service, end = parts["Credential"].rsplit("/", 4)
        if (request.method, algorithm, end) != ("POST", ALGORITHM, SCOPE_END):
            raise ValueError(headers[AUTHORIZATION])
        url, names = urlsplit(request.url), {name.lower(): name for name in headers}
        host = str(url.hostname) if url.port in (None, PORTS.get(url.scheme)) else f"{url.hostname}:{url.port}"
        signed = {name: names.get(name, name) for name in parts["SignedHeaders"].split(";")}
        proxy = http._proxy_config.proxy_url_for(request.url)
        pool = http._get_connection_manager(request.url, proxy).connection_from_url(request.url)
        http._setup_ssl_cert(pool, request.url, http._verify)
        target = http._get_request_target(request.url, proxy)
        return cls(pool, request.url, target, proxy, url.path or "/", host, headers, signed, (region, service))

    def send(self, headers: Mapping[str, str], body: bytes) -> BaseHTTPResponse:
        """Send a request as ``URLLib3Session.send`` does. Raises urllib3's errors."""
        return self.pool.urlopen(
            "POST",
            self.target,
            body,
            headers,
            NO_RETRIES,
            assert_same_host=False,
            decode_content=False,
            enforce_content_length=False,
        )

    def error(self, error: Exception) -> HTTPClientError:
        """Return botocore's error for one of urllib3. Source: botocore, ``URLLib3Session.send``."""
        for theirs, ours in ERRORS:
            if isinstance(error, theirs):
                proxy = self.proxy and mask_proxy_url(self.proxy)
                translated: HTTPClientError = ours(endpoint_url=self.url, proxy_url=proxy, error=error)
                return translated
        return HTTPClientError(error=error)


class Sender:
    """Sends messages as ``client`` does, with the same arguments, answers and errors."""

    def __init__(self, client: SQSClient) -> None:
        self.client = client
        self._credentials: Credentials | None = boto3.DEFAULT_SESSION.get_credentials()  # type: ignore[union-attr]
        self._templates: dict[str, Template | None] = {}
        """None: boto3 makes all requests of the operation."""
        self._key: tuple[tuple[str, str, tuple[str, str]], bytes] = (("", "", ("", "")), b"")
        self._first = threading.local()
        """``result``: what boto3 takes as the result of its first try in this thread."""
        self._refill = 0
        for operation in METHODS:
            client.meta.events.register_first(f"before-send.sqs.{operation}", self._before_send)

    def send(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        """Send one message or one batch; ``operation`` is ``SendMessage`` or ``SendMessageBatch``.

        Raises botocore's errors.
        """
        template = self._templates.get(operation)
        if template is None or _is_replaced():
            return self._by_boto3(operation, arguments)
        if self._refill > 0:
            self._refill -= 1
            return self._by_boto3(operation, arguments)
        try:
            body = json.dumps(arguments).encode()
        except TypeError:  # a binary attribute
            return self._by_boto3(operation, arguments)
        headers = self._headers(template, body)
        try:
            response = template.send(headers, body)
        except Exception as error:
            self._first.result = template.error(error)
        else:
            if (answer := _success(response)) is not None:
                return answer
            self._first.result = AWSResponse(template.url, response.status, response.headers, _Body(response.data))  # type: ignore[arg-type]
        self._refill = REFILL
        try:
            return self._by_boto3(operation, arguments)
        finally:
            self._first.result = None

    def _by_boto3(self, operation: str, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = getattr(self.client, METHODS[operation])(**arguments)
        return answer

    def _before_send(self, request: AWSPreparedRequest, event_name: str, **_: object) -> Any:
        """Return the result of the first try, if there is one. Otherwise boto3 sends, and this request is copied."""
        result = getattr(self._first, "result", None)
        self._first.result = None
        if isinstance(result, Exception):
            raise result
        if result is None:
            operation = event_name.rpartition(".")[2]
            if operation not in self._templates:
                self._templates[operation] = self._template(request, operation)
        return result

    def _template(self, request: AWSPreparedRequest, operation: str) -> Template | None:
        """Return the copy of boto3's request, or None if this module would make another request than boto3."""
        if os.environ.get(SENDER) == "boto3" or self._credentials is None or _is_listened_to(self.client, operation):
            return None
        try:
            template = Template.of(request, self.client._endpoint.http_session)  # type: ignore[attr-defined]
            credentials = self._credentials.get_frozen_credentials()
            signed = self._signed(template, dict(template.headers), request.body, credentials)  # type: ignore[arg-type]
        except (ValueError, LookupError, AttributeError):  # or a botocore that is made otherwise
            return None
        return template if signed == template.headers else None

    def _headers(self, template: Template, body: bytes) -> dict[str, str]:
        assert self._credentials is not None
        headers = dict(template.headers)
        headers[DATE] = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        headers[INVOCATION] = str(uuid.uuid4())
        headers[LENGTH] = str(len(body))
        headers.pop(TRACE, None)
        add_recursion_detection_header({"headers": headers})
        return self._signed(template, headers, body, self._credentials.get_frozen_credentials())

    def _signed(
        self, template: Template, headers: dict[str, str], body: bytes, credentials: ReadOnlyCredentials
    ) -> dict[str, str]:
        """Sign ``headers``, and return them. Source: AWS IAM, *Create a signed AWS API request*."""
        if credentials.token:
            headers[TOKEN] = credentials.token
        at, names = headers[DATE], ";".join(template.signed)
        values = {**headers, "host": template.host}
        lines = [f"{name}:{values[header]}" for name, header in template.signed.items()]
        asked = "\n".join(("POST", template.path, "", *lines, "", names, sha256(body).hexdigest()))
        scope = "/".join((at[:8], *template.scope, SCOPE_END))
        text = "\n".join((ALGORITHM, at, scope, sha256(asked.encode()).hexdigest()))
        key = self._signing_key(at[:8], str(credentials.secret_key), template.scope)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        credential = f"{credentials.access_key}/{scope}"
        headers[AUTHORIZATION] = f"{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
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


def _is_replaced() -> bool:
    """True if boto3's calls are not its own: tracers wrap this method, and tests replace it."""
    call = botocore_client.BaseClient._make_api_call  # type: ignore[attr-defined]
    return type(call) is not FunctionType or not call.__globals__["__name__"].startswith("botocore.")


def _is_listened_to(client: SQSClient, operation: str) -> bool:
    """True if anything but :data:`CONSTANT` receives the events of a request."""
    emitter = client.meta.events._emitter  # type: ignore[attr-defined]
    handlers = (one for event in EVENTS for one in emitter._handlers.prefix_search(f"{event}.sqs.{operation}"))
    return not all((getattr(one, "__module__", None) or "").startswith(CONSTANT) for one in handlers)


def _success(response: BaseHTTPResponse) -> Mapping[str, Any] | None:
    """Return the answer if SQS has accepted every message."""
    if response.status != 200:
        return None
    try:
        answer: dict[str, Any] = json.loads(response.data)
    except ValueError:
        return None
    return None if answer.get("Failed") or not ("MessageId" in answer or "Successful" in answer) else answer


@dataclass(frozen=True, slots=True)
class _Body:
    """A body that was read already, for ``AWSResponse``."""

    data: bytes

    def stream(self, *_: object, **__: object) -> Iterator[bytes]:
        yield self.data
