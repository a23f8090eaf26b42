"""The inspector of a stage on AWS: each operation is a request to the stage's control API, signed as the operator."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from joblane.inspector import wire
from joblane.inspector.permission import Permission
from joblane.local.errors import ForbiddenError, LocalError, UnavailableError
from joblane.record.database import LOOPBACK

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.credentials import Credentials
    from botocore.httpsession import URLLib3Session

SERVICE = "execute-api"
CONNECT_SECONDS, READ_SECONDS = 5, 35
"""API Gateway gives up after 30. Source: HTTP API quotas."""
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Before each further try; a cluster that sleeps takes half a minute to answer, most of it in the tries themselves."""
THROTTLED = 429
PASSING = (500, 502, 503, 504)
"""May be over a moment later. Of an action, all that is known is that there was no answer."""


class RemoteInspector:
    """Has the operations of :class:`~joblane.inspector.Inspector`, with the same arguments, answers and errors.

    ``url``: of the control API. ``stage``, ``prefix``: its names, for what is said when something fails. Questions are
    repeated where the answer does not come; an action never is, once it may have arrived. Any number of threads may
    share one.

    Raises what the operation raises, and :class:`UnavailableError` where the API cannot be asked.
    """

    def __init__(
        self, url: str, *, stage: str, prefix: str, region: str, credentials: Credentials, verify: bool | str = True
    ) -> None:
        where = urlsplit(url)
        if where.scheme != "https" and where.hostname not in LOOPBACK:
            raise LocalError(f"{url}: the control API is asked by https alone.")
        self._url, self._stage, self._prefix, self._region = url.rstrip("/"), stage, prefix, region
        self._credentials = credentials
        self._http = _session(verify)

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        permission = wire.operations().get(operation)
        if permission is None:
            raise AttributeError(f"an inspector has no operation {operation!r}")

        def call(*positional: Any, **named: Any) -> Any:
            arguments = wire.encode_arguments(operation, positional, named)
            return self._decoded(operation, permission, self._ask(operation, permission, arguments))

        return call

    # --- Asking ----------------------------------------------------------------------------------------------------

    def _ask(self, operation: str, permission: Permission, arguments: bytes) -> AWSResponse:
        """The answer, whatever it says. Raises :class:`UnavailableError` where there is none."""
        from botocore import exceptions as http

        for pause in (*PAUSES_SECONDS, None):
            request = self._signed(f"{self._url}/{permission}/{operation}", arguments)
            try:
                answer: AWSResponse = self._http.send(request)
            except (http.HTTPClientError, http.ConnectionError) as error:
                never_arrived = isinstance(
                    error, (http.ConnectTimeoutError, http.EndpointConnectionError, http.ProxyConnectionError)
                )
                if pause is None or (permission is not Permission.VIEW and not never_arrived):
                    raise UnavailableError(self._unanswered(operation, permission, error, never_arrived)) from error
            else:
                if pause is None or not _again(permission, answer.status_code):
                    return answer
            time.sleep(pause)
        raise AssertionError("the last try returns or raises")

    def _signed(self, url: str, body: bytes) -> AWSPreparedRequest:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError

        request = AWSRequest("POST", url, {"Content-Type": "application/json"}, body)
        try:
            credentials = self._credentials.get_frozen_credentials()
        except BotoCoreError as error:
            raise UnavailableError(no_credentials(error)) from error
        SigV4Auth(credentials, SERVICE, self._region).add_auth(request)
        return request.prepare()

    def _unanswered(self, operation: str, permission: Permission, error: Exception, never_arrived: bool) -> str:
        host = urlsplit(self._url).hostname
        said = f"POST /{permission}/{operation}: {host} of stage {self._stage!r} did not answer: {error}."
        if permission is Permission.VIEW or never_arrived:
            return f"{said} Check the network, a proxy (HTTPS_PROXY), and that the stage is deployed."
        return f"{said} {MAY_BE_DONE}"

    # --- Reading ---------------------------------------------------------------------------------------------------

    def _decoded(self, operation: str, permission: Permission, answer: AWSResponse) -> Any:
        if answer.status_code == 200:
            try:
                return wire.decode_answer(operation, answer.content)
            except ValueError as error:
                raise LocalError(
                    f"/{permission}/{operation}: stage {self._stage!r} answers what this version does not understand; "
                    "use the version that is deployed there."
                ) from error
        body = _object(answer.content)
        if isinstance(body.get("error"), dict):
            raise wire.decode_error(body["error"])
        kind = ForbiddenError if answer.status_code == 403 else UnavailableError
        raise kind(self._refused(operation, permission, answer.status_code, str(body.get("message") or "")))

    def _refused(self, operation: str, permission: Permission, status: int, message: str) -> str:
        """What is said of an answer that is the gateway's own, or of a function that did not get to one."""
        said = f"POST /{permission}/{operation} of stage {self._stage!r} is answered with {status}"
        said += f" ({message})." if message else "."
        if status == 403:
            return (
                f"{said} Who asks needs execute-api:Invoke on it, which the managed policy {self._prefix}-"
                f"{permission}-{self._region} gives; and the clock of this machine has to be right."
            )
        if status == 404:
            return f"{said} Its version may be another than this one; deploy the stage, or use its version."
        if status == THROTTLED:
            return f"{said} Too much was asked at once; nothing was done."
        return f"{said} Its log is /aws/lambda/{self._prefix}-control." + (
            "" if permission is Permission.VIEW else f" {MAY_BE_DONE}"
        )


MAY_BE_DONE = "It may have been done all the same: look into the audit (`joblane audit`) before you repeat it."


def no_credentials(error: Exception | None) -> str:
    """What is said where there is nobody to sign as."""
    why = f": {str(error).rstrip('.')}" if error else ""
    return (
        f"There are no AWS credentials to sign with{why}. Give --profile, or set AWS_PROFILE; after `aws sso login`, "
        "where it is one of IAM Identity Center."
    )


def _again(permission: Permission, status: int) -> bool:
    """Whether to ask once more: a question, or what was turned away before it came to the function."""
    return status == THROTTLED or (permission is Permission.VIEW and status in PASSING)


def _session(verify: bool | str) -> URLLib3Session:
    """botocore's own: it knows proxies, and the certificates of AWS_CA_BUNDLE."""
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    options: dict[str, Any] = {
        "verify": verify,
        "timeout": (CONNECT_SECONDS, READ_SECONDS),
        "proxies": get_environ_proxies("https://execute-api.amazonaws.com"),
    }
    return URLLib3Session(**options)


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
