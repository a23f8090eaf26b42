"""The entries of the audit: which operator did what, when and why."""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

MAX_REASON = 500

WRITE = "insert into joblane.audit (who, action, target, reason, details) values ($1, $2, $3, $4, $5::jsonb)"


def write(
    connection: Connection, who: str, action: str, target: str, *, reason: str | None, details: Mapping[str, Any]
) -> None:
    """Write an entry in the open transaction, or in a transaction of its own."""
    connection.run(WRITE, who, action, target, reason, json.dumps(dict(details)))


def line_of(reason: object) -> str | None:
    """Return a reason on a single line; None for an empty one. Raises ValueError for a text that cannot be one."""
    if reason is None:
        return None
    if not isinstance(reason, str):
        raise ValueError(f"a text is required, not {type(reason).__name__}")
    line = " ".join(reason.split())
    if len(line) > MAX_REASON or not line.isprintable():
        raise ValueError(f"printable text of at most {MAX_REASON} characters is required")
    return line or None


def user_of_process() -> str:
    """Return the user and the machine of this process, or the name of its Lambda function."""
    function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME")
    if function:
        return function
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # the user of a container may have no name
        user = f"uid-{os.getuid()}"
    return f"{user}@{socket.gethostname()}"
