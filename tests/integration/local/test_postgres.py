"""The PostgreSQL server of the tests and the local stack."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from joblane.local.daemon import await_end
from joblane.local.errors import LocalError, PortBusyError
from joblane.local.ports import free_port
from joblane.local.postgres import Postgres
from joblane.testing.server_for_tests import MEMORY, server_for_tests
from tests.conftest import administer
from tests.pages import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def one_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    with Postgres(tmp_path_factory.mktemp("server") / "postgres") as server:
        yield server


@pytest.fixture
def server(one_server: Postgres) -> Postgres:
    """The running server of this module. A test may stop, kill or move it."""
    one_server.start()
    return one_server


def test_a_server_that_was_killed_starts_again_with_port_and_data(server: Postgres) -> None:
    administer(server, "create database kept")
    port = server.port

    server.kill()
    assert not server.running
    server.start()

    assert server.port == port
    with pytest.raises(Exception, match="already exists"):
        administer(server, "create database kept")


def test_start_and_stop_can_be_repeated(server: Postgres) -> None:
    pid = server.pid
    server.start()
    assert server.pid == pid

    server.stop()
    server.stop()
    assert server.pid is None


def test_a_running_server_is_found_by_its_folder_and_moved_to_a_requested_port(server: Postgres) -> None:
    found = Postgres(server.folder)
    found.start()
    assert (found.pid, found.url) == (server.pid, server.url)

    elsewhere = free_port()
    moved = Postgres(server.folder, elsewhere)
    moved.start()
    assert moved.address == f"127.0.0.1:{elsewhere}"


def test_a_busy_port_is_an_error_that_names_the_setting(server: Postgres, tmp_path: Path) -> None:
    with pytest.raises(PortBusyError, match=rf"127\.0\.0\.1:{server.port}: another program.*JOBLANE_POSTGRES_PORT"):
        Postgres(tmp_path / "other", server.port).start()


def test_a_running_server_is_not_stopped_for_a_busy_port(server: Postgres) -> None:
    before = server.pid
    with closing(socket.create_server(("127.0.0.1", 0))) as other, pytest.raises(PortBusyError):
        Postgres(server.folder, other.getsockname()[1]).start()
    assert server.pid == before


def test_a_start_that_fails_shows_the_log(server: Postgres) -> None:
    server.stop()

    with pytest.raises(LocalError, match=r"(?s)PostgreSQL ended while it started.*no_such_setting"):
        Postgres(server.folder, settings={"no_such_setting": "1"}).start()


WAITING = """
import time
def test_waiting(postgres):
    print(postgres.pid, postgres.folder.parent, flush=True)
    time.sleep(60)
"""


@contextmanager
def session_of_tests(folder: Path) -> Iterator[tuple[subprocess.Popen[str], psutil.Process, Path]]:
    """A pytest session in the middle of a test, its server's process, and the server's data folder."""
    (folder / "test_waiting.py").write_text(WAITING)
    command = [sys.executable, "-m", "pytest", "-s", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    with subprocess.Popen([*command, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True) as session:
        assert session.stdout is not None
        pid, data = next(line.split() for line in session.stdout if line[:1].isdigit())
        yield session, psutil.Process(int(pid)), Path(data)
        session.communicate()


def test_a_terminated_test_session_leaves_no_server(tmp_path: Path) -> None:
    with session_of_tests(tmp_path) as (session, server, data):
        session.terminate()

    assert session.returncode == pytest.ExitCode.INTERRUPTED
    assert await_end([server], 5)
    assert not data.exists()


def test_a_server_in_memory_of_a_killed_session_is_stopped_by_the_next_session(tmp_path: Path) -> None:
    with session_of_tests(tmp_path) as (session, server, data):
        session.kill()
    assert server.is_running()
    if not data.is_relative_to(MEMORY):
        server.kill()
        pytest.skip(f"{MEMORY} has no room on this machine")

    with server_for_tests():
        assert data.exists()  # too young to be distinguished from the server of a new session
    os.utime(data, (0, 0))
    with server_for_tests() as other, server_for_tests():
        assert await_end([server], 5)
        assert not data.exists()
        assert other.running
