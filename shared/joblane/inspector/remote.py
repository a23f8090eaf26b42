"""The inspector of a stage on AWS: each operation is a request to the control API, signed with the operator's
credentials."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from copy import copy
from itertools import count
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from joblane.inspector import wire
from joblane.inspector.permission import Permission
from joblane.inspector.person import HEADER, Person
from joblane.local.errors import ForbiddenError, LocalError, UnavailableError
from joblane.record.driver.login import LOOPBACK
from joblane.record.driver.time_limits import RESUME_SECONDS

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest, AWSResponse
    from botocore.credentials import Credentials
    from botocore.httpsession import URLLib3Session

SERVICE = "execute-api"
CONNECT_SECONDS, READ_SECONDS = 5, 35
"""API Gateway times out after 30 seconds. Source: HTTP API quotas."""
PAUSES_SECONDS = (0.5, 1.0, 2.0, 4.0)
"""Pauses before the repeated requests. While the database is asleep, the last one is repeated."""
ASLEEP, UNAVAILABLE = "DatabaseAsleepError", "DatabaseUnavailableError"
"""Errors in the control API's answers. Only that API writes them: the first one before it begins an action."""
THROTTLED = 429
UNKNOWN = re.compile(r"(\w+): Extra inputs are not permitted")
"""Names of arguments in the answer of an API that does not know them."""
TRANSIENT = (500, 502, 503, 504)
"""Statuses that may be over a moment later. They leave open if an action was carried out."""


class RemoteInspector:
    """The operations of :class:`~joblane.inspector.Inspector`, with the same arguments, answers and errors.

    ``url``: the address of the control API. ``stage``, ``prefix``: names for error messages. A query is repeated if it
    gets no answer, for ``patience_seconds``; an action is never repeated once it may have arrived. Threads may share an
    object of this class.

    A database that is asleep is waited for, for :data:`~joblane.record.driver.time_limits.RESUME_SECONDS` or
    ``patience_seconds``, whichever is shorter. This holds for actions too: the API answers that nothing was done.

    ``page_url``: the address of the page that the stage deploys for a team; None: it has none.

    Raises the errors of the operation, and :class:`UnavailableError` if the API cannot be reached.
    """

    def __init__(
        self,
        url: str,
        *,
        stage: str,
        prefix: str,
        region: str,
        credentials: Credentials,
        verify: bool | str = True,
        read_seconds: float = READ_SECONDS,
        patience_seconds: float = math.inf,
        page_url: str | None = None,
    ) -> None:
        where = urlsplit(url)
        if where.scheme != "https" and where.hostname not in LOOPBACK:
            raise LocalError(f"{url}: the control API requires https.")
        self._url, self._stage, self._prefix, self._region = url.rstrip("/"), stage, prefix, region
        self._credentials = credentials
        self._http = _session(verify, read_seconds)
        self._patience_seconds = patience_seconds
        self._person: Person | None = None
        self.page_url = page_url

    def on_behalf_of(self, person: Person) -> RemoteInspector:
        """Return an inspector that acts for ``person``. Only the page's role may do it.

        It does not use connections of before: the page's function is frozen between requests, and does not see that
        one has ended. An action that is sent into such a connection would leave open if it was carried out.
        """
        self._http.close()
        acting = copy(self)
        acting._person = person
        return acting

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        permission = wire.operations().get(operation)
        if permission is None:
            raise AttributeError(f"an inspector has no operation {operation!r}")

        def call(*positional: Any, **named: Any) -> Any:
            if self._person is not None:
                self._person.check(operation, permission)
            arguments = wire.encode_arguments(operation, positional, named)
            return self._decoded(operation, permission, self._request(operation, permission, arguments))

        return call

    # --- Request ---------------------------------------------------------------------------------------------------

    def _request(self, operation: str, permission: Permission, arguments: bytes) -> AWSResponse:
        """Return the response, of any status. Raises :class:`UnavailableError` if there is none."""
        from botocore import exceptions as http

        started = time.monotonic()
        for tries in count():
            request = self._signed(f"{self._url}/{permission}/{operation}", arguments)
            try:
                answer: AWSResponse = self._http.send(request)
            except (http.HTTPClientError, http.ConnectionError) as error:
                never_arrived = isinstance(
                    error, (http.ConnectTimeoutError, http.EndpointConnectionError, http.ProxyConnectionError)
                )
                pause = self._pause(tries, started)
                if pause is None or (permission is not Permission.VIEW and not never_arrived):
                    raise UnavailableError(self._unanswered(operation, permission, error, never_arrived)) from error
            else:
                is_asleep = _is_asleep(permission, answer)
                pause = self._pause(tries, started, is_asleep=is_asleep)
                if pause is None or not (is_asleep or _is_repeatable(permission, answer.status_code)):
                    return answer
            time.sleep(pause)
        raise AssertionError("the last request returns or raises")

    def _pause(self, tries: int, started: float, *, is_asleep: bool = False) -> float | None:
        """Return the seconds before the next request; None: there is none. ``tries``: the requests before the last."""
        if tries >= len(PAUSES_SECONDS) and not is_asleep:
            return None
        pause = PAUSES_SECONDS[min(tries, len(PAUSES_SECONDS) - 1)]
        patience = min(self._patience_seconds, RESUME_SECONDS) if is_asleep else self._patience_seconds
        return pause if time.monotonic() + pause <= started + patience else None

    def _signed(self, url: str, body: bytes) -> AWSPreparedRequest:
        from botocore.auth import SigV4Auth
        from botocore.awsrequest import AWSRequest
        from botocore.exceptions import BotoCoreError, ClientError

        headers = {"Content-Type": "application/json"}
        if self._person is not None:
            headers[HEADER] = self._person.header()
        request = AWSRequest("POST", url, headers, body)
        try:
            credentials = self._credentials.get_frozen_credentials()
        except (BotoCoreError, ClientError) as error:  # the latter from AssumeRole, at the end of the caller's session
            raise UnavailableError(no_credentials(error)) from error
        SigV4Auth(credentials, SERVICE, self._region).add_auth(request)
        return request.prepare()

    def _unanswered(self, operation: str, permission: Permission, error: Exception, never_arrived: bool) -> str:
        host = urlsplit(self._url).hostname
        text = f"POST /{permission}/{operation}: {host} of stage {self._stage!r} did not answer: {error}."
        if permission is Permission.VIEW or never_arrived:
            return f"{text} Check the network, the proxy (HTTPS_PROXY), and that the stage is deployed."
        return f"{text} {MAY_BE_DONE}"

    # --- Response --------------------------------------------------------------------------------------------------

    def _decoded(self, operation: str, permission: Permission, answer: AWSResponse) -> Any:
        if answer.status_code == 200:
            try:
                return wire.decode_answer(operation, answer.content)
            except ValueError as error:
                lacks = ", ".join(wire.missing(error))
                why = f"its answer has no {lacks}" if lacks else "its answer cannot be read"
                raise LocalError(
                    f"/{permission}/{operation}: stage {self._stage!r} runs another version of Joblane, and {why}. "
                    "Deploy the stage, or use the version that is deployed there."
                ) from error
        body = _object(answer.content)
        if isinstance(body.get("error"), dict):
            refused = wire.decode_error(body["error"])
            if isinstance(refused, wire.ArgumentsError) and (names := UNKNOWN.findall(str(refused))):
                refused.args = (self._older(operation, names),)
            raise refused
        kind = ForbiddenError if answer.status_code == 403 else UnavailableError
        raise kind(self._refused(operation, permission, answer.status_code, str(body.get("message") or "")))

    def _older(self, operation: str, names: Sequence[str]) -> str:
        """The message for arguments that the API does not know."""
        return (
            f"{operation}: stage {self._stage!r} runs an older version of Joblane, which does not know the option "
            f"{', '.join(map(repr, names))}. Nothing was done. Deploy the stage, or leave the option out."
        )

    def _refused(self, operation: str, permission: Permission, status: int, message: str) -> str:
        """The message for a response of the gateway itself, or of a function that failed before it could answer."""
        text = f"POST /{permission}/{operation} of stage {self._stage!r} is answered with {status}"
        text += f" ({message})." if message else "."
        if status == 403:
            return (
                f"{text} The caller needs execute-api:Invoke on it, which the managed policy {self._prefix}-"
                f"{permission}-{self._region} grants. The clock of this machine must be right."
            )
        if status == 404:
            return (
                f"{text} The stage may run an older version of Joblane, which lacks it: deploy the stage, or use the "
                "version that is deployed there."
            )
        if status == THROTTLED:
            return f"{text} There were too many requests at once; nothing was done."
        return f"{text} The log of the control API is /aws/lambda/{self._prefix}-control." + (
            "" if permission is Permission.VIEW else f" {MAY_BE_DONE}"
        )


MAY_BE_DONE = "The action may have been carried out: check the audit (`joblane audit`) before you repeat it."


def no_credentials(error: Exception | None) -> str:
    """The message for missing or expired credentials."""
    if error and "xpired" in str(error):
        return f"The AWS credentials have expired: {str(error).rstrip('.')}. Run `aws sso login`, or get new keys."
    why = f": {str(error).rstrip('.')}" if error else ""
    return (
        f"There are no AWS credentials to sign with{why}. Give --profile, or set AWS_PROFILE. A profile of IAM "
        "Identity Center also needs `aws sso login`."
    )


def _is_repeatable(permission: Permission, status: int) -> bool:
    """True for a query, and for a request that was rejected before it reached the function."""
    return status == THROTTLED or (permission is Permission.VIEW and status in TRANSIENT)


def _is_asleep(permission: Permission, answer: AWSResponse) -> bool:
    """True if the request met a database that may be asleep, and may be repeated: a query, or no action began."""
    if answer.status_code != 503:
        return False
    error = _object(answer.content).get("error")
    found = wire.class_of_error(error) if isinstance(error, dict) else None
    return found == ASLEEP or (found == UNAVAILABLE and permission is Permission.VIEW)


def _session(verify: bool | str, read_seconds: float) -> URLLib3Session:
    """botocore's HTTP session: it supports proxies, and the certificates of AWS_CA_BUNDLE."""
    from botocore.httpsession import URLLib3Session
    from botocore.utils import get_environ_proxies

    options: dict[str, Any] = {
        "verify": verify,
        "timeout": (CONNECT_SECONDS, read_seconds),
        "proxies": get_environ_proxies("https://execute-api.amazonaws.com"),
    }
    return URLLib3Session(**options)


def _object(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
