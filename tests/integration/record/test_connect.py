"""A new connection to a server that refuses a parameter or the login, and an old one after a pause."""

from __future__ import annotations

import logging
import socket
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta, timezone
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from pg8000 import core
from pg8000.converters import timestamptz_in
from pg8000.exceptions import DatabaseError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from joblane.errors import sqlstate
from joblane.record.driver import connection as module
from joblane.record.driver.connection import is_unavailable
from joblane.record.driver.database import Database
from joblane.record.driver.login import LoginError
from joblane.record.driver.opening import STARTUP
from joblane.record.driver.time_limits import WORKER, TimeLimits
from joblane.record.driver.values import read_time
from joblane.record.migrate import migrate
from tests.bench.roundtrips import CountingProxy
from tests.conftest import administer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from joblane.local.postgres import Postgres

CHECK = "select current_setting('client_connection_check_interval')"


# --- Startup parameters --------------------------------------------------------------------------------------------


def test_each_session_checks_whether_its_client_is_still_connected(postgres: Postgres) -> None:
    with Database(postgres.url) as database:
        assert database.get().run(CHECK) == [["2s"]]


def test_times_are_read_right_whatever_the_style_and_zone_of_the_database(database_url: str) -> None:
    moment = datetime(2026, 2, 1, 12, 30, tzinfo=UTC)
    name = database_url.rpartition("/")[2]
    with Database(database_url) as database:
        database.get().execute_simple(
            f"alter database {name} set datestyle = 'SQL, MDY'; alter database {name} set timezone = 'Asia/Shanghai'"
        )
        database.drop()
        for _ in range(2):
            assert database.get().run("select $1::timestamptz", moment.isoformat()) == [[moment]]
            # the text of a time keeps the zone: by its name, CST, it would be a time in the United States
            assert database.get().run("select $1::timestamptz::text::timestamptz", moment.isoformat()) == [[moment]]
            database.reset()


@pytest.mark.parametrize(
    "text",
    ["2026-02-01 12:30:00+00", "2026-02-01 12:30:00.5+05:30"],
)
def test_a_time_is_read_as_pg8000_reads_it(text: str) -> None:
    assert read_time(text) == timestamptz_in(text)


@pytest.mark.parametrize(
    ("text", "year"),
    [("infinity", 9999), ("20000-01-01 00:00:00+00", 9999), ("-infinity", 1), ("0001-01-01 00:00:00+00 BC", 1)],
)
def test_a_time_that_python_cannot_hold_is_read_as_the_first_or_last(text: str, year: int) -> None:
    assert read_time(text).astimezone(timezone(timedelta(hours=-14))).year == year
    assert read_time(text).astimezone(timezone(timedelta(hours=14))).year == year


LIMITS = "select current_setting('lock_timeout'), current_setting('statement_timeout')"


def test_the_librarys_statements_have_limits_and_a_callers_transaction_has_none(postgres: Postgres) -> None:
    with Database(postgres.url, limits=WORKER) as database:
        connection = database.get()
        assert connection.run(LIMITS) == [["1s", "5500ms"]]
        for end in ("commit", "rollback"):
            with Session(database.engine) as session:
                assert session.execute(text(LIMITS)).one() == ("0", "0")
                assert connection._usock.gettimeout() is None
                getattr(session, end)()
            assert connection.run(LIMITS) == [["1s", "5500ms"]]
            assert connection._usock.gettimeout() == WORKER.answer
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as by_itself:
            assert by_itself.execute(text(LIMITS)).one() == ("0", "0")
        assert connection.run(LIMITS) == [["1s", "5500ms"]]
        assert database.get() is connection


def test_a_callers_transaction_begins_in_one_round_trip(postgres: Postgres) -> None:
    with (
        CountingProxy.before(postgres.url) as proxy,
        Database(proxy.url) as database,
        Session(database.engine) as session,
    ):
        session.execute(text("select 1"))
        session.commit()
        proxy.counts.clear()
        session.execute(text("select 1"))
        session.commit()
        assert proxy.round_trips == 3, "begin, the statement, commit"


ONE = text("select cast(:one as int)")


def test_a_callers_transaction_begins_with_its_first_statement(postgres: Postgres) -> None:
    with CountingProxy.before(postgres.url) as proxy, Database(proxy.url, limits=WORKER) as database:
        for _ in range(2):  # the first prepares the statements
            proxy.counts.clear()
            with Session(database.engine) as session:
                assert session.execute(ONE, {"one": 1}).scalar() == 1
                assert session.execute(text("show statement_timeout")).scalar() == "0"
                session.commit()
        assert proxy.round_trips == 3, "begin and the statement, show, commit"


def test_a_callers_transaction_has_no_time_limit_from_its_first_statement_on(database_url: str) -> None:
    limits = TimeLimits(connect=2, lock=1, statement=0.2, network=0.1)
    with Database(database_url, limits=limits) as database, Session(database.engine) as session:
        slow = text("select 1 from pg_sleep(:seconds)")
        assert session.execute(slow, {"seconds": 0.5}).scalar() == 1  # the server prepares it before it begins
        assert session.execute(slow, {"seconds": 0.5}).scalar() == 1
        session.commit()
        # and a value that cannot be sent begins nothing
        with pytest.raises(UnicodeEncodeError):
            session.execute(text("select cast(:one as text)"), {"one": "\ud800"})
        assert database.get().idle
        assert session.execute(ONE, {"one": 1}).scalar() == 1


def test_a_transaction_whose_first_statement_fails_is_rolled_back(database_url: str) -> None:
    with Database(database_url, limits=WORKER) as database:
        with Session(database.engine) as session:
            with pytest.raises(DBAPIError, match="22P02"):
                session.execute(text("select cast(:one as text)::int"), {"one": "x"})
            assert not database.get().idle
            with pytest.raises(DBAPIError, match="25P02"):
                session.connection().execute(ONE, {"one": 1})
        assert database.get().idle
        # and one that never sends a statement leaves nothing behind for the library's own
        database.get().execute_simple("begin transaction")
        assert database.get().run("select 1") == [[1]]
        assert database.get().idle


def test_a_caller_may_begin_with_the_statement_of_the_driver(database_url: str) -> None:
    with Database(database_url, limits=WORKER) as database:
        with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as by_itself:
            by_itself.execute(text("begin transaction"))
            assert by_itself.execute(text("select pg_current_xact_id_if_assigned() is null")).scalar()
            assert not database.get().idle
            by_itself.execute(text("rollback"))
            by_itself.execute(text("begin transaction"))
        assert database.get().run("select 1") == [[1]]
        assert database.get().idle


def test_what_goes_with_a_commit_decides_if_it_takes_place(database_url: str) -> None:
    with Database(database_url, limits=WORKER) as database:
        connection = database.get()
        connection.run("create table written (id int)")
        write = text("insert into written values (:id)")
        with Session(database.engine) as session:
            session.execute(write, {"id": 1})
            with connection.before_commit("select $1::int", "7") as rows:
                session.commit()
            assert rows == [[7]]
            session.execute(write, {"id": 2})
            with pytest.raises(DBAPIError, match="22P02"), connection.before_commit("select $1::text::int", "x"):
                session.commit()
            session.rollback()
            # and it goes with no later commit
            session.execute(write, {"id": 3})
            session.commit()
        assert connection.run("select id from written") == [[1], [3]]


def test_statements_that_the_server_has_forgotten_are_prepared_again(database_url: str) -> None:
    with Database(database_url, limits=WORKER) as database:
        with Session(database.engine) as session:
            session.execute(ONE, {"one": 1})
        database.get().execute_simple("deallocate all")
        with Session(database.engine) as session, pytest.raises(DBAPIError, match="26000"):
            session.execute(ONE, {"one": 1})
        with Session(database.engine) as session:
            assert session.execute(ONE, {"one": 1}).scalar() == 1


@pytest.mark.parametrize(
    "startup", [{"client_connection_check_interval": "-5"}, {"client_connection_check_intervall": "2000"}]
)
def test_a_refused_parameter_is_left_out_from_then_on(
    postgres: Postgres, startup: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("joblane.record.driver.opening.STARTUP", startup)
    with Database(postgres.url) as database, database.another() as second:
        for connecting in (database, second, database):
            connecting.drop()
            assert connecting.get().run(CHECK) == [["0"]]
            assert connecting.get().run(LIMITS) == [["2s", "20s"]], "they are set by a statement"
            connecting.reset()
            assert connecting.get().run(LIMITS) == [["2s", "20s"]]
    [line] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.getMessage().startswith("the server refuses client_connection_check_interval")
    assert "lock_timeout" in line.getMessage()
    assert startup, "another database of the process asks its own server"


@pytest.fixture
def pooler(postgres: Postgres, request: pytest.FixtureRequest) -> Iterator[tuple[str, list[bool]]]:
    """Yield the URL of a server that refuses every startup parameter with a code, and what each client sent."""
    asked: list[bool] = []

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                serve(opened.enter_context(listener.accept()[0]))

    def serve(client: socket.socket) -> None:
        head = client.recv(4096)
        asked.append(any(name.encode() in head for name in STARTUP))
        if asked[-1]:
            fields = f"SFATAL\0C{request.param}\0Munsupported startup parameter\0\0".encode()
            client.sendall(b"E" + (len(fields) + 4).to_bytes(4) + fields)
            client.close()
            return
        server = opened.enter_context(socket.create_connection(("127.0.0.1", postgres.port)))
        server.sendall(head)
        for source, target in ((client, server), (server, client)):
            Thread(target=pump, args=(source, target), daemon=True).start()

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)

    with ExitStack() as opened, socket.create_server(("127.0.0.1", 0)) as listener:
        Thread(target=accept, args=(listener,), daemon=True).start()
        yield postgres.url.replace(f":{postgres.port}/", f":{listener.getsockname()[1]}/"), asked


@pytest.mark.parametrize("pooler", ["08P01", "0A000"], indirect=True)
def test_a_pooler_that_refuses_the_parameter_is_used_without_it(pooler: tuple[str, list[bool]]) -> None:
    url, asked = pooler
    with Database(url) as database:
        for _ in range(2):
            database.drop()
            assert database.get().run("select 1") == [[1]]
    assert asked == [True, False, False]


@pytest.mark.parametrize("pooler", ["53300"], indirect=True)
def test_another_refusal_is_not_tried_again_without_the_parameter(pooler: tuple[str, list[bool]]) -> None:
    url, asked = pooler
    with pytest.raises(DatabaseError) as caught:
        Database(url).get()
    assert sqlstate(caught.value) == "53300"
    assert asked == [True]


# --- A refused login -----------------------------------------------------------------------------------------------


def test_a_refused_login_says_so_and_counts_as_unavailable(postgres: Postgres) -> None:
    url = postgres.url.replace("owner:", "owner:x")
    with pytest.raises(
        LoginError, match=r"the database at 127.0.0.1 refuses the login: .*28P01\); check user"
    ) as error:
        Database(url).get()
    assert is_unavailable(error.value)
    assert url.split(":")[2].partition("@")[0] not in str(error.value)


def test_a_deploy_waits_for_a_login_and_then_fails_with_what_to_check(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A role of RDS that is not yet, or no longer, what the login needs."""
    monkeypatch.setattr("joblane.record.migrate.PAUSE_SECONDS", 0.05)
    administer(postgres, "create role deploying nologin password 'x'")
    try:
        with pytest.raises(LoginError, match=r"not permitted to log in \(28000\).*member of rds_iam"):
            migrate(f"postgresql://deploying:x@127.0.0.1:{postgres.port}/joblane", patience=timedelta(seconds=0.2))
    finally:
        administer(postgres, "drop role deploying")
    [line] = {str(vars(record)["error"]) for record in caplog.records if record.message == "waiting for the database"}
    assert "refuses the login" in line


# --- A pause -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", ["monotonic", "time"])
def test_a_connection_is_tested_if_either_clock_shows_a_pause(
    postgres: Postgres, clock: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While Lambda freezes an environment, one of the clocks may stand still."""

    class Clocks:
        def __init__(self) -> None:
            self.now = {"monotonic": 1_000.0, "time": 1_800_000_000.0}

        def __getattr__(self, name: str) -> Any:
            return lambda: self.now[name]

    clocks = Clocks()
    monkeypatch.setattr(module, "time", clocks)
    with Database(postgres.url) as database, Database(postgres.url) as administrator:
        clocks.now["time"] -= 3_600  # this clock may be set back
        [[pid]] = database.get().run("select pg_backend_pid()")
        administrator.get().run("select pg_terminate_backend($1::integer, 5000)", pid)
        # when
        clocks.now[clock] += module.PING_AFTER_SECONDS + 1
        # then
        assert database.get().run("select pg_backend_pid()") != [[pid]]


def test_a_connection_that_another_thread_closes_at_the_same_moment_is_closed(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Database(database_url) as database:
        connection = database.get()

        def close_first(sock: Any) -> None:
            monkeypatch.undo()
            connection.close()
            sock.flush()

        monkeypatch.setattr(core, "_flush", close_first)
        connection.cut()
        assert not connection.usable
