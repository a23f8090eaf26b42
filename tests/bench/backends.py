"""The processor time of PostgreSQL's sessions, from ``/proc``."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from joblane.record.driver.connection import Connection

CPUCLOCK_SCHED = 2


def pid_of(connection: Connection) -> int:
    """Return the process id of the connection's session."""
    pid: int = connection.run("select pg_backend_pid()")[0][0]
    return pid


def sessions(administrator: Connection, database: str) -> list[int]:
    """Return the process ids of the clients' sessions in a database, except the administrator's own."""
    statement = "select pid from pg_stat_activity where datname = $1 and backend_type = 'client backend' and pid <> $2"
    return [row[0] for row in administrator.run(statement, database, str(pid_of(administrator)))]


def cpu(pid: int) -> float:
    """Return the processor time of a process in seconds, once it waits for the next statement.

    The kernel counts the time of a running process late. Source: Linux, *Scheduler Statistics*, /proc/<pid>/schedstat.
    """
    until = time.monotonic() + 1
    while Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "S" and time.monotonic() < until:
        pass
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def of(pid: int, work: Callable[[], object]) -> float:
    """Return the processor time that a session spends on ``work``, in seconds."""
    before = cpu(pid)
    work()
    return cpu(pid) - before


def process_cpu(pid: int) -> float:
    """Return the processor time of a process with all its threads, also those that have ended, in seconds.

    Raises :class:`ProcessLookupError`. Source: Linux, *clock_getcpuclockid(3)*, whose number is computed here.
    """
    try:
        return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    except OSError as error:
        raise ProcessLookupError(pid) from error


def descendants(pid: int) -> float:
    """Return the processor time of a process's descendants in seconds. That of ended ones is in ticks of 10 ms."""
    process = psutil.Process(pid)
    ended = process.cpu_times()
    seconds = ended.children_user + ended.children_system
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            times = child.cpu_times()
            seconds += process_cpu(child.pid) + times.children_user + times.children_system
    return float(seconds)
