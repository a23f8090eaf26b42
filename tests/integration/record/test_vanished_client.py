"""The session of a client that is gone: the server ends it, and its locks are free.

Linux drops every packet that arrives at a socket with a filter that accepts none, so the socket answers nothing, as a
host that has vanished.
"""

from __future__ import annotations

import ctypes
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from pg8000.exceptions import DatabaseError
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.util import greenlet_spawn

from joblane.quotas import MAX_FUNCTION_TIMEOUT
from joblane.record.driver import opening
from joblane.record.driver.connection import Connection
from joblane.record.driver.database import Database
from joblane.record.driver.event_loop import process_loop
from joblane.record.driver.time_limits import WORKER
from tests.patience import PATIENCE_SECONDS

SHOWN = (
    "client_connection_check_interval",
    "tcp_keepalives_idle",
    "tcp_keepalives_interval",
    "tcp_keepalives_count",
    "tcp_user_timeout",
    "idle_in_transaction_session_timeout",
)
PARAMETERS = "select " + ", ".join(f"current_setting('{name}')" for name in SHOWN)
QUICK = dict.fromkeys(opening.VANISHED_CLIENT, "2000") | {
    "client_connection_check_interval": "100",
    "tcp_keepalives_idle": "1",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "2",
}
"""The parameters of a session, with 3 s of keepalives, and 2 s for any other limit."""
LOCK = "select from locked for update"
SO_ATTACH_FILTER = 26
"""Source: Linux, ``include/uapi/asm-generic/socket.h``. Python has no name for it."""
HOLDER = """
import sys
from datetime import timedelta
from joblane.record.driver import opening
from joblane.record.driver.database import Database
from joblane.record.driver.time_limits import WORKER

opening.IDLE_IN_TRANSACTION = timedelta(seconds=2)
connection = Database(sys.argv[1], limits=WORKER).get()
connection.execute_simple("begin; select from locked for update")
print("locked", flush=True)
sys.stdin.read()
"""


class Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint))


class Program(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction)))


def vanish(connection: Connection) -> None:
    """Let the client's socket send and answer nothing from now on."""
    plain: socket.socket = connection._usock
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 0)
    return_nothing = Instruction(0x06, 0, 0, 0)  # BPF_RET: accept 0 bytes
    plain.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(Program(1, ctypes.pointer(return_nothing))))


@pytest.fixture
def observer(database_url: str) -> Iterator[Connection]:
    with Database(database_url) as database:
        connection = database.get()
        connection.run("create table locked (id int)")
        connection.run("insert into locked values (1)")
        yield connection


def is_locked(observer: Connection) -> bool:
    try:
        observer.run(f"{LOCK} nowait")
    except DatabaseError:
        return True
    return False


def assert_ends(observer: Connection, pid: int) -> None:
    """Wait until the session is gone, and its lock free."""
    until = time.monotonic() + PATIENCE_SECONDS
    while observer.run("select from pg_stat_activity where pid = $1", pid):
        assert time.monotonic() < until, "the session does not end"
        time.sleep(0.05)
    assert not is_locked(observer)


def before_and_after_reset(database: Database, *, asynchronous: bool) -> list[list[str]]:
    """The parameters of a new session, and after its reset between two runs."""

    def ask() -> list[list[str]]:
        used: Any = database.asynchronous if asynchronous else database
        connection = used.connect() if asynchronous else used.get()
        before = connection.run(PARAMETERS)
        used.reset()
        return [*before, *connection.run(PARAMETERS)]

    async def spawned() -> list[list[str]]:
        found: list[list[str]] = await greenlet_spawn(ask)
        return found

    return process_loop.run(spawned) if asynchronous else ask()


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(("function", "idle"), [("jobs-data-export", "16min"), (None, "0")])
def test_each_session_says_when_the_server_ends_it(
    function: str | None, idle: str, asynchronous: bool, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_LAMBDA_FUNCTION_NAME", raising=False)
    if function:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", function)
    with Database(database_url, limits=WORKER) as database:
        shown = before_and_after_reset(database, asynchronous=asynchronous)
    assert shown == [["2s", "60", "10", "3", "0", idle]] * 2


def test_a_transaction_of_the_longest_invocation_may_be_idle_all_the_time() -> None:
    assert opening.IDLE_IN_TRANSACTION > MAX_FUNCTION_TIMEOUT


def test_the_session_of_a_frozen_function_ends_and_its_locks_go(database_url: str, observer: Connection) -> None:
    # given a function that is frozen in its transaction, while its kernel answers
    environment = {**os.environ, "AWS_LAMBDA_FUNCTION_NAME": "jobs-data-export"}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, database_url], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"locked\n"
            [[pid]] = observer.run("select pid from pg_stat_activity where state = 'idle in transaction'")
            holder.send_signal(signal.SIGSTOP)
            # then
            assert_ends(observer, pid)
        finally:
            holder.kill()


STATES = {
    "idle in transaction": None,
    "running a statement": 2 * PATIENCE_SECONDS,
}
"""State of the session → the seconds of its statement; None: it has none."""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no filter for a socket")
@pytest.mark.parametrize("state", STATES)
def test_the_session_of_a_vanished_client_ends_and_its_locks_go(
    state: str, database_url: str, observer: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a client that holds a lock
    monkeypatch.setattr(opening, "STARTUP", QUICK)
    with Database(database_url, limits=None) as database:
        client = database.get()
        client.execute_simple(f"begin; {LOCK}")
        [[pid]] = client.run("select pg_backend_pid()")
        if (seconds := STATES[state]) is not None:
            client._send_message(b"Q", f"select pg_sleep({seconds})\0".encode())
            client._sock.flush()
        assert is_locked(observer)
        # when
        vanish(client)
        # then
        assert_ends(observer, pid)


def test_an_idle_transaction_keeps_its_session_while_its_client_lives(
    database_url: str, observer: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(opening, "STARTUP", QUICK)
    monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "jobs-data-export")
    with Database(database_url, limits=WORKER) as database, Session(database.engine) as session:
        session.execute(text("update locked set id = 2"))
        time.sleep(4)  # the pause is the subject: a vanished client's session ends after 3 s
        session.commit()
    assert observer.run("select id from locked") == [[2]]


class SlowReader(io.RawIOBase):
    """The target of a ``COPY``, whose first write takes as long as a throttled upload."""

    size = 0

    def write(self, data: Any) -> int:
        if not self.size:
            time.sleep(5)  # the pause is the subject: no limit of the session is longer
        self.size += len(data)
        return len(data)


def test_a_session_keeps_its_client_that_reads_nothing_for_a_while(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given more data than the buffers of both sockets hold
    monkeypatch.setattr(opening, "STARTUP", QUICK)
    copy = "copy (select repeat('x', 1000) from generate_series(1, 40000)) to stdout"
    reader = SlowReader()
    with Database(database_url, limits=WORKER) as database, Session(database.engine) as session:
        cursor: Any = session.connection().connection.cursor()
        cursor.execute(copy, stream=reader)
    assert reader.size == 40_000 * 1_001
