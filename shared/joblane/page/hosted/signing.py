"""The secrets of the page, and what its key signs: the cookies of a browser, and the notices in addresses.

The deploy creates the key, in Secrets Manager: with a key in Parameter Store, everybody who may read all parameters,
for example through AWS's policy ``ReadOnlyAccess``, could sign in as anybody.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any

from joblane.inspector.shared_page import KEY_LENGTH
from joblane.page.hosted.issuer import IssuerUnavailableError
from joblane.page.security import equal


class Signer:
    """Signs and reads strings. ``key``: the secret key of the stage, 32 random bytes."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def token(self, purpose: str, text: str) -> str:
        """A text that only a holder of the key can make. Two purposes never have the same one."""
        key = hmac.digest(self._key, purpose.encode(), hashlib.sha256)
        return _encoded(hmac.digest(key, text.encode(), hashlib.sha256))

    def sign(self, purpose: str, value: dict[str, Any], seconds: float) -> str:
        """A text with ``value``, which can be read for ``seconds``."""
        kept = {**value, "until": int(time.time() + seconds)}
        text = json.dumps(kept, separators=(",", ":"), ensure_ascii=False)
        body = _encoded(text.encode(errors="surrogatepass"))
        return f"{body}.{self.token(purpose, body)}"

    def read(self, purpose: str, text: str) -> dict[str, Any] | None:
        """The value in a string; None if it was not signed for this purpose, or is too old."""
        body, _, token = text.partition(".")
        if not equal(token, self.token(purpose, body)):
            return None
        value: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return value if value.pop("until") > time.time() else None


def _encoded(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


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
