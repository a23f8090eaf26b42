"""Errors for an unavailable database or AWS, and the recovery of the next query."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from pg8000.exceptions import DatabaseError

from joblane.cli.exits import Exit, exit_of
from joblane.errors import DatabaseUnavailableError
from joblane.inspector.errors import AwsCallError, SchemaError
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, needs
from joblane.inspector.scope import Scope
from joblane.record.driver.database import Database
from joblane.sqs.client import Sqs


class Planted(Inspector):
    """An inspector with an operation that the test defines."""

    @needs(Permission.VIEW)
    def planted(self: Inspector, do: Callable[[Scope], Any]) -> Any:
        return do(self._scope)


@pytest.fixture
def inspector(database_url: str) -> Iterator[Planted]:
    database = Database(database_url)
    yield Planted(Scope(database, Sqs(), "jobs", {}, "op"))
    database.drop()


def one(scope: Scope) -> Any:
    return scope.connection.run("select 1")


def fail(error: Exception) -> Callable[[Scope], Any]:
    def do(scope: Scope) -> Any:
        raise error

    return do


def test_a_broken_connection_is_reported_and_the_next_query_gets_a_new_one(
    inspector: Planted, database_url: str
) -> None:
    pid = inspector.planted(lambda scope: scope.connection.run("select pg_backend_pid()"))[0][0]
    another = Database(database_url)
    another.get().run("select pg_terminate_backend($1)", pid)
    another.drop()
    with pytest.raises(
        DatabaseUnavailableError, match="may have been carried out: check the audit before you repeat it"
    ) as caught:
        inspector.planted(lambda scope: scope.connection.run("select pg_sleep(5)"))
    assert exit_of(caught.value) is Exit.UNAVAILABLE
    assert inspector.planted(one) == [[1]]


def test_the_end_of_an_operation_does_not_wait_for_the_database(
    inspector: Planted, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a connection to a database that answers no more
    inspector.planted(one)

    def get(database: Database) -> Any:
        raise TimeoutError

    monkeypatch.setattr(Database, "get", get)
    # then an operation without a statement has its answer, and the error of another one is its own
    assert inspector.planted(lambda scope: "types") == "types"
    with pytest.raises(AwsCallError):
        inspector.planted(fail(EndpointConnectionError(endpoint_url="https://sqs")))


@pytest.mark.parametrize(
    "statement", ["select * from nothing", "select nothing from joblane.tasks", "select nothing(1)"]
)
def test_an_outdated_schema_is_reported_with_both_revisions(statement: str, inspector: Planted) -> None:
    inspector.planted(lambda scope: scope.connection.run("update joblane.alembic_version set version_num = '0000'"))
    with pytest.raises(SchemaError, match=r"at revision 0000 and this code needs \d{4}: run `joblane migrate`"):
        inspector.planted(lambda scope: scope.connection.run(statement))
    assert inspector.planted(one) == [[1]]


def test_a_bug_is_not_translated(inspector: Planted) -> None:
    with pytest.raises(DatabaseError):
        inspector.planted(lambda scope: scope.connection.run("select 1 / 0"))
    with pytest.raises(KeyError):
        inspector.planted(fail(KeyError("x")))


@pytest.mark.parametrize(
    ("error", "expected", "status"),
    [
        (
            ClientError({"Error": {"Code": "AccessDenied", "Message": "ann may not sqs:SendMessage"}}, "SendMessage"),
            "AWS, SendMessage: ann may not sqs:SendMessage",
            Exit.FORBIDDEN,
        ),
        (
            ClientError({"Error": {"Code": "Throttling", "Message": ""}}, "SendMessage"),
            "SendMessage: Thr",
            Exit.UNAVAILABLE,
        ),
        (
            EndpointConnectionError(endpoint_url="https://sqs"),
            "Could not connect to the endpoint URL",
            Exit.UNAVAILABLE,
        ),
    ],
    ids=["denied", "throttled", "unreachable"],
)
def test_a_failed_call_to_aws_is_reported_by_its_name(
    error: Exception, expected: str, status: Exit, inspector: Planted
) -> None:
    with pytest.raises(AwsCallError) as caught:
        inspector.planted(fail(error))
    assert expected in str(caught.value)
    assert exit_of(caught.value) is status


@pytest.mark.parametrize(
    "error", [None, KeyError("x"), DatabaseUnavailableError("away")], ids=["returned", "bug", "library error"]
)
def test_no_transaction_stays_open_after_an_operation(error: Exception | None, inspector: Planted) -> None:
    def leave_open(scope: Scope) -> None:
        scope.connection.run("begin")
        scope.connection.run("update joblane.alembic_version set version_num = '9999'")
        if error:
            raise error

    if error is None:
        inspector.planted(leave_open)
    else:
        with pytest.raises(type(error)):
            inspector.planted(leave_open)
    assert inspector.planted(lambda scope: scope.connection.idle)
    ((revision,),) = inspector.planted(
        lambda scope: scope.connection.run("select version_num from joblane.alembic_version")
    )
    assert revision != "9999"


def test_threads_that_share_an_inspector_take_turns(inspector: Planted) -> None:
    inside, most = 0, 0
    together = threading.Barrier(4)

    def do(scope: Scope) -> int:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        ((number,),) = scope.connection.run("select 7 from pg_sleep(0.01)")
        inside -= 1
        return int(number)

    def ask(_: int) -> int:
        together.wait()
        return int(inspector.planted(do))

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == [7] * 4
    assert most == 1
