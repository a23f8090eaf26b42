"""What an operator is told where the database or AWS does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pg8000.exceptions import Error as PostgresError

from joblane.errors import JobError, RecordAwayError, sqlstate, text_of
from joblane.inspector.errors import AwsCallError, SchemaError
from joblane.record import migrations
from joblane.record.connection import is_unavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

    from joblane.inspector.scope import Reach

MISSING = ("42P01", "42703", "42883")
"""No such table, column, function. Source: PostgreSQL, appendix *Error Codes*."""
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@contextmanager
def told(reach: Reach) -> Iterator[None]:
    """Around one operation: what is away becomes an error of ours, and no transaction stays open behind it."""
    with reach.lock:
        try:
            yield
        except JobError:
            raise
        except Exception as error:
            ours = as_ours(error, reach)
            if ours is None:
                raise
            raise ours from error
        finally:
            if not reach.database.usable or not reach.connection.idle:
                reach.database.drop()


def as_ours(error: Exception, reach: Reach) -> JobError | None:
    """What an error of the database or of AWS means to whoever asked; None for one that is a fault of the code."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        return of_aws(error)
    if isinstance(error, BotoCoreError):
        return AwsCallError(type(error).__name__, str(error).rstrip("."))
    if sqlstate(error) in MISSING:
        return _outdated(reach)
    if is_unavailable(error):
        return RecordAwayError(
            f"the database did not answer: {text_of(error)}. What was under way may have been done: look before you "
            "repeat an action"
        )
    return None


def of_aws(error: ClientError) -> AwsCallError:
    told_code, text = (str(error.response.get("Error", {}).get(key, "")) for key in ("Code", "Message"))
    return AwsCallError(error.operation_name, text or told_code, denied=told_code in DENIED)


def _outdated(reach: Reach) -> SchemaError:
    reach.database.drop()
    try:
        there = migrations.applied(reach.connection)
    except (PostgresError, OSError) as error:
        return SchemaError(f"the database lacks a table, and cannot be asked for its revision: {text_of(error)}")
    return SchemaError(
        f"the database is at revision {there or 'none'} and this code works with {migrations.newest()}: run "
        "`joblane migrate`, or deploy the stage"
    )
