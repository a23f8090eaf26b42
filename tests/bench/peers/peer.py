"""A peer with a database of its own: a program that enqueues on command, workers, and the meters of what they cost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self, TypeVar

import boto3
import psutil
from pg8000.exceptions import Error as PostgresError

from joblane.local.ministack import MiniStack
from joblane.local.postgres import Postgres
from joblane.record.driver.database import Database
from tests.bench import backends
from tests.bench.peers import emulator as counting
from tests.bench.peers.program import Description
from tests.databases import administer
from tests.locked import environment
from tests.pages import ROOT

REGION = "us-east-1"
DRAIN_SECONDS = 90.0
STOP_SECONDS = 3.0
RESTART_SECONDS = 1.0
"""The pause of the supervisor before it starts a worker again: 100 ms is systemd's, which starts no Python."""
TABLES = """
create table orders (number bigint not null);
create table effects (number bigint not null, at timestamptz not null default clock_timestamp());
"""
WAL_AND_SIZE = """
select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::int8, coalesce(sum(pg_total_relation_size(oid)), 0)::int8
  from pg_class
 where relkind = 'r' and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
   and relname not in ('orders', 'effects')
"""
NO_PAUSE = {"BENCH_PAUSE": "0"}
"""The settings of a producer that is compared with a loop without pauses. An enqueue after a pause costs PostgreSQL
about twice as much processor time."""
T = TypeVar("T")


class PeerError(Exception):
    """A peer cannot be installed, or has failed."""


@cache
def _python() -> Path:
    try:
        return environment("peers") / "bin" / "python"
    except (subprocess.CalledProcessError, OSError) as error:
        raise PeerError(f"the peers of requirements/peers.txt cannot be installed: {error}") from error


@dataclass(frozen=True)
class Bench:
    """The servers that all peers share."""

    server: Postgres
    emulator: MiniStack | None = None

    def requests(self) -> Counter[str]:
        """Return the requests to SQS since the emulator's start, by action."""
        if self.emulator is None:
            return Counter()
        with urllib.request.urlopen(f"{self.emulator.endpoint}{counting.PATH}", timeout=30) as answer:
            return Counter(json.load(answer))

    def queue_depth(self, name: str) -> int:
        """Return the messages of a queue, visible or not. 0 if there is no such queue."""
        assert self.emulator is not None
        sqs = client("sqs", self.emulator.endpoint)
        names: Any = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        names.append("ApproximateNumberOfMessagesDelayed")
        try:
            url = sqs.get_queue_url(QueueName=name)["QueueUrl"]
            counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
        except sqs.exceptions.QueueDoesNotExist:
            return 0
        return sum(int(count) for count in counts.values())


@cache
def client(service: Any, endpoint: str) -> Any:
    """Return boto3's client of a service of the emulator."""
    return boto3.client(
        service,
        endpoint_url=endpoint,
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
    )


@dataclass(frozen=True)
class Produced:
    """The processor time of the producer and the time of a call, in seconds."""

    cpu: float
    seconds: float


@dataclass(frozen=True)
class Usage:
    """The use until a time, by meter, in seconds, bytes and requests.

    The meters are read one after the other while jobs run. ``ran``: jobs that had run when each of them was read.
    """

    time: float
    size: int
    """Bytes of the system's tables."""
    sessions: Mapping[int, float]
    """Session of PostgreSQL → processor time. That of a session which has ended is missing."""
    meters: Mapping[str, float]
    ran: Mapping[str, float]

    def per_job(self, before: Usage, count: int | None = None) -> dict[str, float]:
        """Return the use since ``before`` for each of ``count`` jobs. None: for each job that has run since then."""
        used = {meter: amount - before.meters[meter] for meter, amount in self.meters.items()}
        used["server"] = sum(seconds - before.sessions.get(pid, 0.0) for pid, seconds in self.sessions.items())
        return {meter: amount / (count or self.ran[meter] - before.ran[meter]) for meter, amount in used.items()}


class Peer:
    """A system on the shared servers, in a database of its own.

    ``name``: of the system, and of its program in this folder. ``settings``: environment variables for the program.
    """

    batches: tuple[int | None, ...] = (None,)
    """The batch sizes of its workers that are measured. None: the system has its own."""
    answer_seconds: float | None = None
    """A producer that has not answered after this time is killed. None: it may take any time."""

    def __init__(self, name: str, bench: Bench, settings: Mapping[str, str] | None = None) -> None:
        if name == "oban" and sys.version_info < (3, 12):
            raise PeerError("oban needs Python 3.12")
        self.name, self.bench = name, bench
        self._database_name = f"peer_{name}"
        self.url = bench.server.database_url(self._database_name)
        self._temporary = TemporaryDirectory(prefix=f"{name}-")
        self.folder = Path(self._temporary.name)
        self._ran = self.folder / "ran"
        self._ran.touch()
        self.enqueued = 0
        """Jobs ``noop`` that were enqueued."""
        self.environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.folder),
            "LANG": "C.UTF-8",
            "DATABASE_URL": self.url,
            "BENCH_RAN": str(self._ran),
            "BENCH_RUNS": str(self.folder / "runs"),
            "BENCH_RESCUE": "120",
            "BENCH_LONG": "1",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            **({"AWS_ENDPOINT_URL": bench.emulator.endpoint} if bench.emulator else {}),
            **(settings or {}),
        }
        self._producer: subprocess.Popen[str] | None = None
        self._workers: list[Supervisor] = []
        administer(bench.server.database_url("postgres"), f"create database {self._database_name}")
        self._administrator = Database(self.url, limits=None)
        try:
            self.administrator.execute_simple(TABLES)
            self.description = Description(**json.loads(self._run("describe")))
            self._install()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process of the peer and drop its database."""
        self.stop_work()
        self.stop_producing()
        self._administrator.drop()
        with suppress(PostgresError, OSError):
            administer(self.bench.server.database_url("postgres"), f"drop database {self._database_name} with (force)")
        self._temporary.cleanup()

    def described(self) -> dict[str, Any]:
        """Return the description and the versions, for the results."""
        script = "import json, sys; from importlib.metadata import version; "
        script += "print(json.dumps({name: version(name) for name in sys.argv[1:]}))"
        command = [str(self._interpreter()), "-c", script, *self.description.packages]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return {
            "versions": json.loads(done.stdout),
            "record": self.description.record,
            "settings": self.description.settings,
            "notes": self.description.notes,
        }

    @property
    def administrator(self) -> Any:
        """A connection to the peer's database, whose cost is not counted."""
        return self._administrator.get()

    def produce(self, call: str, job: str, first: int, count: int) -> Produced:
        """Enqueue jobs with the numbers from ``first``. See :mod:`tests.bench.peers.program` for the calls.

        Raises :class:`PeerError` if the system has no such call, or if it fails.
        """
        if reason := self.description.missing.get(call):
            raise PeerError(reason)
        if self._producer is None or self._producer.poll() is not None:
            self._producer = self._start("produce")
            self._answer("ready")
        assert self._producer.stdin is not None
        with suppress(BrokenPipeError):  # the answer is missing, which is reported
            print(call, job, first, count, file=self._producer.stdin, flush=True)
        cpu, seconds = self._answer("done")
        if job == "noop" and call != "rows":
            self.enqueued += count
        return Produced(float(cpu), float(seconds))

    def work(self, concurrency: int, batch: int | None = None, *, processes: int = 1) -> None:
        """Start workers for ``concurrency`` jobs at a time each. A worker that ends is started again.

        ``batch``: one of ``batches``. The environment of a worker has its number, from 0, as ``BENCH_WORKER``.
        """
        assert batch in self.batches
        for number in range(processes):
            environment = {**self.environment, "BENCH_WORKER": str(number)}
            self._workers.append(
                Supervisor(self._command("worker", str(concurrency)), environment, self.folder / "worker.log")
            )

    def stop_work(self) -> None:
        """Stop the workers. Does nothing if there are none."""
        while self._workers:
            self._workers.pop().stop()

    @property
    def restarts(self) -> int:
        """The number of times that a worker has ended and was started again."""
        return sum(worker.restarts for worker in self._workers)

    def stop_producing(self) -> None:
        """End the producer. The next call starts another one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            _end(producer)

    def ran(self) -> int:
        """Return how many times ``noop`` has run."""
        return self._ran.stat().st_size

    def unfinished(self) -> int:
        """Return the number of jobs that have not ended."""
        if self.description.unfinished is not None:
            count: int = self.administrator.run(self.description.unfinished)[0][0]
            return count
        return sum(self.bench.queue_depth(name) for name in self.description.queues)

    def await_(
        self, condition: Callable[[], bool], what: str, seconds: float | None = None, pause: float = 0.01
    ) -> None:
        """Wait until the condition holds. Raises :class:`PeerError` with the end of the worker's log if it does not."""
        until = time.monotonic() + (seconds := seconds or DRAIN_SECONDS)
        while not condition():
            if time.monotonic() > until:
                raise PeerError(f"not within {seconds:.0f} s: {what}. {self.worker_log()}")
            time.sleep(pause)

    def worker_log(self) -> str:
        """Return the end of the worker's log."""
        log = self.folder / "worker.log"
        return log.read_text(errors="replace")[-1500:] if log.exists() else ""

    def usage(self) -> Usage:
        """Return what has been used until now."""
        ran: dict[str, float] = {}

        def read(meter: str, reading: Callable[[], T]) -> T:
            first, value = self.ran(), reading()
            ran[meter] = (first + self.ran()) / 2
            return value

        sessions = read("server", self._sessions_cpu)
        wal, size = read("wal", lambda: self.administrator.run(WAL_AND_SIZE)[0])
        worker = read("worker", self._worker_cpu)
        requests = read("requests", lambda: self.bench.requests().total())
        meters = {"wal": wal, "worker": worker, "requests": requests}
        return Usage(time.perf_counter(), size, sessions, meters, ran)

    def _sessions_cpu(self) -> dict[int, float]:
        found = {}
        for pid in backends.sessions(self.administrator, self._database_name):
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                found[pid] = backends.cpu(pid)
        return found

    def _worker_cpu(self) -> float:
        return sum(worker.cpu() for worker in self._workers)

    def _install(self) -> None:
        self._run("install")

    def _command(self, *arguments: str) -> list[str]:
        return [str(self._interpreter()), "-m", f"tests.bench.peers.{self.name}_program", *arguments]

    def _interpreter(self) -> Path:
        return _python()

    def _run(self, verb: str) -> str:
        done = subprocess.run(
            self._command(verb),
            env=self.environment,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if done.returncode:
            raise PeerError(f"{self.name}: {verb}: {_last(done.stderr)}")
        return done.stdout

    def _start(self, verb: str) -> subprocess.Popen[str]:
        with (self.folder / f"{verb}.log").open("wb") as log:
            return subprocess.Popen(
                self._command(verb),
                env=self.environment,
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C in the terminal ends this process, which ends the others
            )

    def _answer(self, word: str) -> list[str]:
        assert self._producer is not None
        assert self._producer.stdout is not None
        watch = threading.Timer(self.answer_seconds, self._producer.kill) if self.answer_seconds else None
        if watch:
            watch.start()
        lines = (line.strip() for line in self._producer.stdout)
        line = next((line for line in lines if line.split(" ")[0] in (word, "error")), "")  # a library may print, too
        if watch:
            watch.cancel()
        if line.split(" ")[0] != word:
            log = (self.folder / "produce.log").read_text(errors="replace")
            raise PeerError(line.removeprefix("error ") or f"the producer has ended: {_last(log)}")
        return line.split(" ")[1:]


class Supervisor:
    """Starts a worker, starts it again when it ends, and stops it. Each worker has a process group of its own."""

    def __init__(self, command: list[str], environment: Mapping[str, str], log: Path) -> None:
        self._command, self._environment, self._log = command, environment, log
        self._stopping = threading.Event()
        self._spent = 0.0
        self.restarts = 0
        self._process = self._launch()
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    def _launch(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                self._command,
                env=dict(self._environment),
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _supervise(self) -> None:
        while True:
            self._process.wait()
            _kill_group(self._process.pid)
            if self._stopping.wait(RESTART_SECONDS):
                return
            self.restarts += 1
            self._process = self._launch()

    def cpu(self) -> float:
        """Return the processor time of the worker that runs, with its descendants, in seconds."""
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            return backends.process_cpu(self._process.pid) + backends.descendants(self._process.pid)
        return 0.0

    def stop(self) -> None:
        self._stopping.set()
        with suppress(ProcessLookupError):
            self._process.terminate()
        self._thread.join(STOP_SECONDS)
        while self._thread.is_alive():  # it does not end by itself, or was started meanwhile
            _kill_group(self._process.pid)
            self._thread.join(0.1)
        _kill_group(self._process.pid)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(BrokenPipeError, subprocess.TimeoutExpired):
        process.communicate(timeout=STOP_SECONDS)
    _kill_group(process.pid)
    process.wait()


def _last(text: str) -> str:
    return text.strip()[-500:]
