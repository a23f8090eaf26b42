"""The key that signs sessions: a SecureString of Parameter Store, which costs nothing while it is not used.

CloudFormation can create no SecureString. So the first run of the function creates it. To sign everybody out, delete
the parameter and deploy the stage again.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable
from typing import Any

from joblane.page.hosted.issuer import IssuerUnavailableError

SIZE_BYTES = 32
PAUSES_SECONDS = (0.1, 0.2, 0.4, 0.8)


def session_key(parameter: str, client: Any) -> bytes:
    """Return the key in ``parameter``, and create it if there is none. ``client``: of boto3 for SSM."""
    for pause in (*PAUSES_SECONDS, None):
        if found := _read(parameter, client):
            return found
        try:
            made = base64.b64encode(secrets.token_bytes(SIZE_BYTES)).decode()
            client.put_parameter(Name=parameter, Value=made, Type="SecureString", Overwrite=False)
        except client.exceptions.ParameterAlreadyExists:  # another process was faster, so its key is read
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError("the last attempt returns or raises")


def _read(parameter: str, client: Any) -> bytes | None:
    try:
        value = client.get_parameter(Name=parameter, WithDecryption=True)["Parameter"]["Value"]
    except client.exceptions.ParameterNotFound:
        return None
    key = base64.b64decode(value, validate=True)
    if len(key) != SIZE_BYTES:
        raise ValueError(f"parameter {parameter}: {SIZE_BYTES} bytes in base64 are required")
    return key


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
