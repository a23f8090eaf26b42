"""Texts in Secrets Manager, read on first use and kept for five minutes. botocore is imported only to read one."""

from __future__ import annotations

import json
import time
from typing import Any

from joblane.errors import JobError

KEPT_SECONDS = 300
"""A process uses a rotated text after this time at the latest.

Source: the default of the AWS Parameters and Secrets Lambda Extension, Lambda, *Use Secrets Manager secrets*.
"""
TIMEOUT_SECONDS = 3
_kept: dict[str, tuple[float, str]] = {}


class SecretError(JobError):
    """A secret of a setting or of ``DATABASE_URL`` cannot be read now. The message has its name, and never its text.

    Correct the secret, or the reference in the stage's ``settings``. In a task the attempt has failed, and the next
    attempt reads the secret again.
    """


def text_of_secret(secret: str, field: str | None = None) -> str:
    """Return the text of a secret, or one field of a JSON secret. ``secret``: its name or ARN.

    Raises :class:`SecretError`.
    """
    at, text = _kept.get(secret, (0.0, ""))
    now = time.time()  # monotonic clocks may stand still while an execution environment is frozen
    if not 0 <= now - at < KEPT_SECONDS:
        text = fetch(secret)
        _kept[secret] = now, text
    return text if field is None else _field(secret, text, field)


def forget(secret: str) -> None:
    """Read the secret again on its next use."""
    _kept.pop(secret, None)


def fetch(secret: str) -> str:
    """Return the text of a secret, as Secrets Manager has it now. Raises :class:`SecretError`."""
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError
    from botocore.session import Session

    config = Config(
        connect_timeout=TIMEOUT_SECONDS,
        read_timeout=TIMEOUT_SECONDS,
        retries={"total_max_attempts": 2},
        # the ordinary host has IPv6 addresses too; older SDKs compose one that does not exist.
        # Source: Secrets Manager, *AWS Secrets Manager endpoints*; aws/aws-sdk-js-v3, issue 7631
        use_dualstack_endpoint=False,
    )
    try:
        client: Any = Session().create_client("secretsmanager", config=config)
        answer = client.get_secret_value(SecretId=secret)
    except (BotoCoreError, ClientError) as error:  # their texts name the secret and the caller
        raise SecretError(f"secret {secret!r}: {error}") from None
    if "SecretString" not in answer:
        raise SecretError(f"secret {secret!r}: contains binary data; text is required")
    return str(answer["SecretString"])


def _field(secret: str, text: str, field: str) -> str:
    """Return a field of a JSON object. No part of the text is in an error."""
    try:
        value = json.loads(text)[field]
    except (ValueError, KeyError, TypeError):
        raise SecretError(f"secret {secret!r}: a JSON object with the field {field!r} is required") from None
    if not isinstance(value, str | int | float):
        raise SecretError(f"secret {secret!r}: the field {field!r} is neither a string nor a number")
    return value if isinstance(value, str) else json.dumps(value)
