"""The function of the shared page, and the secrets that it reads.

The deploy creates the key of sessions, in Secrets Manager: with a key in Parameter Store, everybody who may read all
parameters, for example through AWS's policy ``ReadOnlyAccess``, could sign in as anybody.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import TYPE_CHECKING, Any, cast

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route

from joblane.inspector.inspector import Inspector
from joblane.inspector.person import Person
from joblane.inspector.remote import RemoteInspector
from joblane.inspector.shared_page import KEY_LENGTH, Configuration
from joblane.local.errors import LocalError
from joblane.page.app import COMMON, assemble
from joblane.page.hosted.event import respond
from joblane.page.hosted.guard import SIGN_OUT, SIGNED_IN, HostedGuard, Signer, sign_out
from joblane.page.hosted.issuer import Issuer, IssuerUnavailableError
from joblane.page.inspectors import Desk
from joblane.page.rendering import Notices

if TYPE_CHECKING:
    from botocore.credentials import Credentials

NOTICE_SECONDS = 60
ANSWER_SECONDS = 27
"""After this time the function answers without the page: API Gateway waits for 30 seconds, and then shows no reason."""
AWS_SECONDS, AWS_ATTEMPTS = 3, 2
"""Limits of a request for the key of sessions, or for the client's secret. Those of botocore are 60 and 5."""
READ_SECONDS, PATIENCE_SECONDS = 20, 12
"""Limits of a request to the control API. A page makes up to six requests. On a database that is asleep the first one
takes about 17 s, because each try of the API to connect takes 5 s."""

BUG = "The page failed. Its log group, /aws/lambda/PREFIX-page, says where; the command line can do the same."
"""Even if the key of the sessions cannot be read."""

SLOW = (
    f"The page was not complete after {ANSWER_SECONDS} seconds: the database or the control API is slow. Load it "
    "again. An action may have been carried out: check the audit before you repeat it."
)

log = logging.getLogger(__name__)
threads = ThreadPoolExecutor()
"""Each request has a thread, so that it can be left behind."""


class SignedNotices(Notices):
    """Notices that are in the address of the next page, as another process may answer it."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    def put(self, text: str) -> str:
        return self._signer.sign("notice", {"text": text}, NOTICE_SECONDS)

    def pop(self, key: str | None) -> str | None:
        found = self._signer.read("notice", key) if key else None
        return str(found["text"]) if found else None


def build(
    configuration: Configuration, *, key: bytes, secret: Callable[[], str] | None, remote: RemoteInspector
) -> Starlette:
    """Build the page of a stage. ``key``: signs sessions. ``secret``: of the client; None: it is public.

    ``remote``: the inspector of the stage, which acts for a person.
    """
    signer = Signer(key)
    issuer = Issuer(configuration, f"{configuration.url}{SIGNED_IN}", secret)

    def desk_of(person: Person) -> Desk:
        return Desk(lambda: cast(Inspector, remote.on_behalf_of(person)), size=1)

    stage = configuration.stage
    return assemble(
        Middleware(HostedGuard, configuration=configuration, issuer=issuer, signer=signer, desk_of=desk_of),
        desk=None,
        notices=SignedNotices(signer),
        readable=(LocalError,),
        common={**COMMON, "stage": stage, "command": f"joblane --stage {stage}"},
        more=[Route(SIGN_OUT, sign_out, methods=["POST"])],
    )


def session_key(arn: str, client: Any) -> bytes:
    """Return the key of sessions from its secret. ``client``: of boto3 for Secrets Manager. Raises ValueError."""
    text = client.get_secret_value(SecretId=arn)["SecretString"]
    if len(text) < KEY_LENGTH:
        raise ValueError(f"secret {arn}: {KEY_LENGTH} characters are required")
    return hashlib.sha256(text.encode()).digest()


def client_secret(arn: str, clients: Callable[[str], Any]) -> str:
    """Return the text of a secret of Secrets Manager, or of a parameter. ``clients``: makes a client for a service.

    Raises :class:`~joblane.page.hosted.issuer.IssuerUnavailableError`.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        if ":secretsmanager:" in arn:
            return str(clients("secretsmanager").get_secret_value(SecretId=arn)["SecretString"])
        return str(clients("ssm").get_parameter(Name=arn, WithDecryption=True)["Parameter"]["Value"])
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        raise IssuerUnavailableError(f"the secret of the client cannot be read ({code})") from None
    except (BotoCoreError, KeyError) as error:
        raise IssuerUnavailableError(f"the secret of the client cannot be read ({type(error).__name__})") from None


@cache
def page() -> Starlette:
    """The page of this process."""
    from botocore.config import Config
    from botocore.session import Session

    configuration, session = Configuration.of_environment(), Session()
    limits = Config(connect_timeout=AWS_SECONDS, read_timeout=AWS_SECONDS, retries={"total_max_attempts": AWS_ATTEMPTS})
    clients = partial(session.create_client, config=limits)
    arn = configuration.client_secret
    remote = RemoteInspector(
        configuration.control_url,
        stage=configuration.stage,
        prefix=configuration.prefix,
        region=os.environ["AWS_REGION"],
        credentials=cast("Credentials", session.get_credentials()),
        read_seconds=READ_SECONDS,
        patience_seconds=PATIENCE_SECONDS,
    )
    return build(
        configuration,
        key=session_key(configuration.key_secret, clients("secretsmanager")),
        secret=(lambda: client_secret(arn, clients)) if arn else None,
        remote=remote,
    )


def handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer a request, and log it in one line, without its address."""
    started = time.monotonic()
    try:
        answer = threads.submit(lambda: respond(page(), event)).result(timeout=ANSWER_SECONDS)
    except TimeoutError:
        answer = _plain(503, SLOW)
    except Exception as error:  # its text may hold confidential values
        frame = traceback.extract_tb(error.__traceback__)[-1]
        log.error("%s in %s, line %s", type(error).__name__, frame.filename, frame.lineno)
        answer = _plain(500, BUG)
    http = event["requestContext"]["http"]
    extra = {"method": http["method"], "status": answer["statusCode"], "ms": int((time.monotonic() - started) * 1000)}
    log.info("request", extra=extra)
    return answer


def _plain(status: int, text: str) -> dict[str, Any]:
    return {"statusCode": status, "headers": {"content-type": "text/plain", "cache-control": "no-store"}, "body": text}
