"""The migration in a deploy, before new code. CloudFormation waits for it, and a failure fails the deploy.

A rollback never waits for the database: the physical id of the resource names the last two successes, and an update to
the properties of one of them succeeds at once. Only if it returns to another database does it pause that one first: it
succeeds without the pause if that database is unavailable for as long as :data:`PATIENCE` lasts, and fails after any
other error. `joblane deploy` gives each move that a person wants a property ``Move`` of its own, so it is no rollback:
it migrates and pauses, or fails. Deleting the resource changes nothing in the database. Both work even if the package
is broken, because this module imports little at its top.

Invoked by hand, with any other event, it migrates and returns the fields of :class:`Migrated`.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import os
import re
import urllib.request
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

PATIENCE = timedelta(minutes=3)
"""Wait for the database: a paused cluster answers after half a minute, a new cluster somewhat later."""
MAX_ANSWER = 4096
"""Bytes of the whole response. Source: CloudFormation, *Custom resource response objects*."""
BYTES_OF_CHARACTER = 6
"""In JSON at most: a control character, as ``\\u001b``."""
ANSWER_SECONDS = 10
SUCCESSES = re.compile(r"migrated-([0-9a-f]{16})(?:-([0-9a-f]{16}))?")
"""The physical id: digests of the properties of the last success and of the success before it.

A rollback is an update to the old properties. It comes with the id from before the update or with the id that the
update returned, and both have the old digest. AWS documents neither.
CloudFormation keeps the id of the last answer, even of a failure: so after a success it is the new id, on which
:func:`_return` relies. After a change of the id CloudFormation deletes the resource with the other id. Source:
CloudFormation, *Custom resource request types*; aws/aws-cdk, pull request 29581 and issue 13527.
"""
TAKEN_BACK = "TakenBack"
"""Property of a deploy that `joblane deploy --watch` takes back: its version and the reason, as JSON."""
NO_PROPERTIES = ("ServiceToken", "ServiceTimeout", "By", TAKEN_BACK)
"""Properties that do not concern the database."""


def handler(event: Mapping[str, Any], context: Any) -> dict[str, Any]:
    if "ResponseURL" not in event:
        return _migrate(PATIENCE, {}, None)
    id_ = event.get("PhysicalResourceId", event["LogicalResourceId"])
    if event["RequestType"] == "Delete":
        return _answer(event, context, "SUCCESS", id_, "the database stays as it is")
    if event["RequestType"] == "Update" and _digest(event["ResourceProperties"]) in _successes(id_):
        try:
            reason = _return(event)
        except (Exception, SystemExit) as error:
            done = _answer(event, context, "FAILED", id_, f"the queues cannot be paused: {_text_of(error)}")
            _logger().error("the database answers, and its queues cannot be paused", exc_info=error)
            return done
        done = _answer(event, context, "SUCCESS", id_, reason)
        _follow(event["ResourceProperties"])
        return done
    try:
        migrated = _migrate(PATIENCE, event["ResourceProperties"], _moved(event))
    except (Exception, SystemExit) as error:  # an imported module may end the program
        done = _answer(event, context, "FAILED", id_, _text_of(error))
        _logger().error("the migration failed; CloudFormation rolls the deploy back", exc_info=error)
        return done
    done = _answer(event, context, "SUCCESS", _id_after(event, id_), "")
    deploy = _deploy_of(event["ResourceProperties"])
    # `by` is a keyword of Logs Insights
    _logger().info("migrated", extra={**migrated, "version": deploy["version"], "deployed_by": deploy["by"]})
    return done


def _moved(event: Mapping[str, Any]) -> str | None:
    """Return the reason for a pause of every queue if the stage moves between its database and a restored copy.

    What runs in one of them is unknown to the other, in which it would run again at once. A pause is a row, and the
    pauses of the database that the stage leaves are not in the other. A later deploy without a move pauses nothing.
    """
    new, old = (event.get(key, {}).get("Restored") for key in ("ResourceProperties", "OldResourceProperties"))
    if new == old:
        return None
    return f"the stage uses the restored copy {new}" if new else f"the stage has left the restored copy {old}"


def _return(event: Mapping[str, Any]) -> str:
    """Pause every queue of a database to which a rollback returns. Return the reason for the answer.

    Nothing is paused if the migration of the other database failed: no function has used it. Raises the error of a
    database that answers.
    """
    without, moved = "migrated by an earlier deploy; the database was not needed", _moved(event)
    if moved is None or _digest(event.get("OldResourceProperties", {})) not in _successes(event["PhysicalResourceId"]):
        return without
    try:
        from joblane import settings
        from joblane.record.migrate import pause_only
    except ImportError:  # no function of this package runs a task
        return without
    by = _deploy_of(event["ResourceProperties"])["by"] or "deploy"
    if pause_only(settings.database_url(), pauses=moved, by=by, patience=PATIENCE):
        return "migrated by an earlier deploy; every queue is paused"
    return "migrated by an earlier deploy; the database is unavailable: when it answers, pause its queues by hand"


def _migrate(patience: timedelta, properties: Mapping[str, Any], pauses: str | None) -> dict[str, Any]:
    # not at the top: the discovery of tasks imports this module, too
    from joblane import settings
    from joblane.record.migrate import migrate

    user, by_iam = os.environ.get("DATABASE_USER") or None, os.environ.get("DATABASE_USER_LOGIN") == "iam"
    deploy = _deploy_of(properties)
    done = migrate(settings.database_url(), user=user, by_iam=by_iam, patience=patience, pauses=pauses, **deploy)
    _wake()
    return vars(done)


def _wake() -> None:
    """Make sure that a sweep follows: limits may have more slots now, or be removed, and tasks wait for them."""
    from joblane import settings
    from joblane.enqueue.wake import wake_after_commit
    from joblane.sqs.client import Sqs

    wake_after_commit(Sqs(), settings.prefix())


def _deploy_of(properties: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the version that is deployed, and by which person; None: it is not known."""
    return {"version": properties.get("Version") or None, "by": properties.get("By") or None}


def _follow(properties: Mapping[str, Any]) -> None:
    """Register this code's task types and version again, after the answer. A later deploy had registered its own.

    Nothing waits for this. If it fails, SQL can enqueue only the types that the later deploy declared, and the audit
    has no entry of a deploy that was reverted.
    """
    logger, taken_back = _logger(), properties.get(TAKEN_BACK)
    extra = {"taken_back": taken_back, "by": properties.get("By")} if taken_back else {}
    logger.info("migrated by an earlier deploy; the database was not needed", extra=extra)
    try:
        _migrate(timedelta(0), properties, None)
        if taken_back:
            _write_audit(json.loads(taken_back), _deploy_of(properties))
    except (Exception, SystemExit):
        logger.warning("the declared task types were not registered again; invoke this function", exc_info=True)


def _write_audit(given: Mapping[str, str], deploy: Mapping[str, str | None]) -> None:
    """Write that the deploy of a version was reverted. ``given``: that version and the reason."""
    from joblane import settings
    from joblane.record.audit import MAX_REASON, line_of, write
    from joblane.record.driver.database import Database

    who, reason = deploy["by"] or "deploy", line_of(given["why"][:MAX_REASON])
    details = {"from": given["from"], "to": deploy["version"]}
    with Database(settings.database_url()) as database:
        write(database.get(), who, "take_back", f"deploy:{given['from']}", reason=reason, details=details)


def _successes(id_: str) -> tuple[str, ...]:
    found = SUCCESSES.fullmatch(id_)
    return tuple(filter(None, found.groups())) if found else ()


def _id_after(event: Mapping[str, Any], id_: str) -> str:
    """Return the physical id after a success. Its second digest is that of the properties to roll back to."""
    known = _successes(id_)
    old = _digest(event.get("OldResourceProperties", {}))
    return "-".join(["migrated", _digest(event["ResourceProperties"]), *([old] if old in known else known[:1])])


def _digest(properties: Mapping[str, Any]) -> str:
    kept = {name: value for name, value in properties.items() if name not in NO_PROPERTIES}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]


def _logger() -> Any:
    try:
        from joblane import telemetry

        return telemetry.logger()
    except ImportError:
        return logging.getLogger()


def _text_of(error: BaseException) -> str:
    try:
        from joblane.errors import text_of

        return text_of(error)
    except ImportError:  # so it is no error of the database, whose text could have values
        return f"{type(error).__name__}: {error}"


def _answer(event: Mapping[str, Any], context: Any, status: str, id_: str, reason: str) -> dict[str, Any]:
    answer = {
        "Status": status,
        "PhysicalResourceId": id_,
        **{name: event[name] for name in ("StackId", "RequestId", "LogicalResourceId")},
    }
    body = _body(answer, reason, f" (log stream {context.log_stream_name})")
    # The URL is a presigned link to S3. Its signature requires an empty content type.
    request = urllib.request.Request(  # noqa: S310 - the URL is CloudFormation's
        event["ResponseURL"], body, {"Content-Type": ""}, method="PUT"
    )
    with urllib.request.urlopen(request, timeout=ANSWER_SECONDS):  # noqa: S310
        pass
    return {"status": status}


def _body(answer: Mapping[str, str], reason: str, end: str) -> bytes:
    """Return the response as JSON, with as much of the reason as fits. CloudFormation would wait for a longer one."""
    text = json.dumps({**answer, "Reason": reason + end}, ensure_ascii=False)
    body = text.encode(errors="replace")  # half a surrogate pair, as in the name of a file, has no UTF-8
    excess = len(body) - MAX_ANSWER
    if excess <= 0 or not reason:
        return body
    return _body(answer, reason[: -math.ceil(excess / BYTES_OF_CHARACTER)], end)
