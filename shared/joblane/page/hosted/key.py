"""The secrets of the page: the key that signs sessions, and the client's secret.

The deploy makes the key, in Secrets Manager: with a key in Parameter Store, everybody who may read all parameters, as
by AWS's policy ``ReadOnlyAccess``, could sign in as anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from joblane.inspector.shared_page import KEY_LENGTH
from joblane.page.hosted.issuer import IssuerUnavailableError


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
