"""The migration in a deploy, before new code. CloudFormation waits for it, and a failure fails the deploy.

Invoked by hand, with any other event, it migrates and returns the fields of :class:`Migrated`.
"""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from joblane import settings, telemetry
from joblane.errors import text_of

PATIENCE = timedelta(minutes=3)
"""Wait for the database: a paused cluster answers after half a minute, a new cluster somewhat later."""
MAX_REASON = 1000
"""Characters of the reason. Limit of the response: 4,096 bytes. Source: CloudFormation, *Custom resource response
objects*."""
ANSWER_SECONDS = 10


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    if "ResponseURL" not in event:
        return _migrate()
    status, reason = "SUCCESS", ""
    try:
        if event["RequestType"] != "Delete":
            telemetry.logger().info("migrated", extra=_migrate())
    except Exception as error:
        telemetry.logger().exception("the migration failed; CloudFormation rolls the deploy back")
        status, reason = "FAILED", text_of(error)[:MAX_REASON]
    _answer(event, status, f"{reason} (log stream {context.log_stream_name})")
    return {"status": status}


def _migrate() -> dict[str, Any]:
    from joblane.record.migrate import migrate  # not at the top: the discovery of tasks imports this module, too

    user, by_iam = os.environ.get("DATABASE_USER") or None, os.environ.get("DATABASE_USER_LOGIN") == "iam"
    return vars(migrate(settings.database_url(), user=user, by_iam=by_iam, patience=PATIENCE))


def _answer(event: Mapping[str, Any], status: str, reason: str) -> None:
    """Source: CloudFormation, *Custom resource response objects*."""
    answer = {
        "Status": status,
        "Reason": reason,
        "PhysicalResourceId": event.get("PhysicalResourceId", event["LogicalResourceId"]),
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    # The URL is a presigned link to S3. Its signature requires an empty content type.
    request = urllib.request.Request(  # noqa: S310 - the URL is CloudFormation's
        event["ResponseURL"], json.dumps(answer).encode(), {"Content-Type": ""}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):  # noqa: S310
        pass
