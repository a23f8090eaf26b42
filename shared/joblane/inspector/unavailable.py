"""Errors of the database and of AWS, translated for an operator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pg8000.exceptions import Error as PostgresError

from joblane.errors import UNDEFINED_FUNCTION, DatabaseUnavailableError, JobError, sqlstate, text_of
from joblane.inspector.errors import AwsCallError, SchemaError
from joblane.inspector.scope import Scope
from joblane.record import migrations
from joblane.record.driver.advice import advice_for
from joblane.record.driver.connection import LOCK_NOT_AVAILABLE, UNDEFINED_TABLE, is_unavailable

if TYPE_CHECKING:
    from botocore.exceptions import ClientError

MISSING = (UNDEFINED_TABLE, "42703", UNDEFINED_FUNCTION)
"""No such table, column, function. Source: PostgreSQL, appendix *Error Codes*."""
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@contextmanager
def translated_errors(scope: Scope) -> Iterator[None]:
    """Translate errors of the database and of AWS; leave no transaction open after the operation."""
    with scope.lock:
        try:
            yield
        except JobError:
            raise
        except Exception as error:
            translation = translated(error, scope)
            if translation is None:
                raise
            raise translation from error
        finally:
            if not scope.database.usable or scope.database.in_transaction:
                scope.database.drop()


def translated(error: Exception, scope: Scope) -> JobError | None:
    """The library's error for an error of the database or of AWS; None for a bug."""
    from botocore.exceptions import BotoCoreError, ClientError

    if isinstance(error, ClientError):
        return aws_error(error)
    if isinstance(error, BotoCoreError):
        return AwsCallError(type(error).__name__, str(error).rstrip("."))
    if sqlstate(error) in MISSING:
        return _outdated(scope)
    if is_unavailable(error) or sqlstate(error) == LOCK_NOT_AVAILABLE:
        advice = f"; {do}" if (do := advice_for(error)) else ""
        return DatabaseUnavailableError(
            f"the database is unavailable: {text_of(error)}{advice}. An action that was under way may have been carried"
            " out: check the audit before you repeat it"
        )
    return None


def aws_error(error: ClientError) -> AwsCallError:
    code, text = (str(error.response.get("Error", {}).get(key, "")) for key in ("Code", "Message"))
    return AwsCallError(error.operation_name, text or code, denied=code in DENIED)


def _outdated(scope: Scope) -> SchemaError:
    scope.database.drop()
    try:
        revision = migrations.applied(scope.connection)
    except (PostgresError, OSError) as error:
        return SchemaError(f"the database lacks a table, and its revision cannot be read: {text_of(error)}")
    if revision == migrations.newest():
        return SchemaError(
            f"the database is at revision {revision}, like this code, but tables, columns or functions of the schema"
            " joblane are missing: they were dropped by hand. `joblane doctor` names them, and what creates them again"
        )
    if migrations.is_newer(revision):
        return SchemaError(
            f"the database is at revision {revision}, newer than this code ({migrations.newest()}), and lacks a table,"
            " column or function that this code needs: use the version that is deployed"
        )
    return SchemaError(
        f"the database is at revision {revision or 'none'} and this code needs {migrations.newest()}: run "
        "`joblane migrate`, or deploy the stage"
    )
