"""An execution environment of Lambda: a process with the unpacked zips, started by AWS's own runtime client.

The client, the package `awslambdaric` of Lambda's Python runtime, asks a server of this module for invocations. Source:
Lambda, *Using the Lambda runtime API*, *Understanding the Lambda execution environment lifecycle*, *Defined runtime
environment variables*.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from joblane.cdk.packaging import PROVIDED, RUNNING
from tests.unpacked import installed

REGION: Final = "eu-central-1"
ACCOUNT = "123456789012"
RUNTIME = ("awslambdaric", "simplejson", *PROVIDED)
"""Packages of Lambda's Python runtime, in addition to two modules of awslambdaric."""
API = "/2018-06-01/runtime"
USER = 993
"""The user of functions, who owns no file of the zips. [seen in Lambda; no page names it]"""
START_SECONDS = 60
PATIENCE_SECONDS = 120
"""The least time for an invocation without a given timeout: the machine of the tests may be busy."""


class TimedOutError(Exception):
    """The invocation took longer than its timeout. The process was killed, as Lambda does without any extension."""


class FunctionError(Exception):
    """The function raised, or its response cannot be written as JSON. ``report``: the client's report."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        super().__init__(report["errorMessage"])
        self.report = report


class RuntimeExitError(Exception):
    """The process ended before it answered. The text is the end of its output."""


@dataclass(frozen=True)
class Folders:
    """The file system of an environment: ``/var/task``, ``/opt`` and ``/var/runtime``."""

    root: Path

    @property
    def task(self) -> Path:
        return self.root / "task"

    @property
    def opt(self) -> Path:
        return self.root / "opt"

    @property
    def runtime(self) -> Path:
        return self.root / "runtime"

    @property
    def path(self) -> list[str]:
        """The module search path after the current folder, which is ``/var/task``."""
        layers = [self.opt / "python" / "lib" / f"python{RUNNING}" / "site-packages", self.opt / "python"]
        return [str(folder) for folder in (*layers, self.runtime)]

    @cached_property
    def user(self) -> int | None:
        """The user of the processes: Lambda's if these tests run as root and this machine lets it start Python."""
        if os.geteuid() != 0:
            return None
        command = [python(), "-S", "-c", "import botocore"]
        environment = {"PYTHONPATH": ":".join(self.path)}
        done = subprocess.run(
            command, env=environment, cwd="/", user=USER, group=USER, extra_groups=[], capture_output=True, check=False
        )
        return USER if done.returncode == 0 else None


@contextmanager
def unpacked(code: Path, layer: Path | Folders) -> Iterator[Folders]:
    """Unpack the zips with the permissions that they contain, into folders that the functions' user cannot write to.

    ``layer``: a zip, or folders whose layer and runtime are used.
    """
    root = Path(tempfile.mkdtemp(prefix="lambda-"))
    root.chmod(0o755)
    folders = Folders(root)
    try:
        extract(code, folders.task)
        if isinstance(layer, Folders):
            folders.opt.symlink_to(layer.opt)
            folders.runtime.symlink_to(layer.runtime)
        else:
            extract(layer, folders.opt)
            link_runtime(folders.runtime)
        if os.geteuid() != 0:
            _set_mode(root, 0o555)
        yield folders
    finally:
        if os.geteuid() != 0:
            _set_mode(root, 0o755)
        shutil.rmtree(root)


def link_runtime(folder: Path) -> None:
    """Fill ``/var/runtime`` with the packages of the development environment."""
    folder.mkdir()
    for name in RUNTIME:
        (folder / name).symlink_to(installed(name))
    site = installed("awslambdaric").parent
    for module in (site / "snapshot_restore_py.py", *site.glob("runtime_client.*.so")):
        (folder / module.name).symlink_to(module)


def _set_mode(root: Path, mode: int) -> None:
    for folder, _, _ in os.walk(root):
        Path(folder).chmod(mode)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a zip, with the permissions of its files."""
    with zipfile.ZipFile(archive) as opened:
        for entry in opened.infolist():
            path = Path(opened.extract(entry, folder))
            path.chmod(entry.external_attr >> 16 & 0o777)


def python() -> str:
    """The interpreter without a virtual environment."""
    return str(Path(sys._base_executable).resolve())  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Function:
    """A function's configuration in a template. ``key``: the access key of its credentials."""

    name: str
    handler: str
    timeout: float
    memory_mb: int
    variables: Mapping[str, str]
    key: str = "AKIAFUNCTION"

    def environment(self, folders: Folders, api: str) -> dict[str, str]:
        return {
            **self.variables,
            "_HANDLER": self.handler,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{RUNNING}",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.memory_mb),
            "AWS_LAMBDA_FUNCTION_NAME": self.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": "2026/01/01/[$LATEST]0123456789abcdef",
            "AWS_LAMBDA_RUNTIME_API": api,
            "AWS_REGION": REGION,
            "LAMBDA_RUNTIME_DIR": str(folders.runtime),
            "LAMBDA_TASK_ROOT": str(folders.task),
            "LANG": "en_US.UTF-8",
            "PATH": "/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": ":".join(folders.path),
            "TZ": ":UTC",
        }


@dataclass
class Invocation:
    """``answer``: the kind, ``response`` or ``error``, and the body."""

    event: bytes
    deadline_ms: int
    function: str
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    answer: queue.SimpleQueue[tuple[str, bytes]] = field(default_factory=queue.SimpleQueue)


class RuntimeApi(ThreadingHTTPServer):
    """Lambda's side: it gives the next invocation to the client, and takes its answers.

    ``started``: gets ``next`` when the client asks for its first invocation, or the body of its initialisation error.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Client)
        self.pending: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self.running: dict[str, Invocation] = {}
        self.started: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.server_port}"

    def close(self) -> None:
        self.pending.put(None)
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Client(BaseHTTPRequestHandler):
    server: RuntimeApi
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        with suppress(ConnectionError):  # the client was killed
            super().handle()

    def do_GET(self) -> None:
        assert self.path == f"{API}/invocation/next"
        self.server.started.put(b"next")
        invocation = self.server.pending.get()
        if invocation is None:
            self.close_connection = True
            return
        self.server.running[invocation.id] = invocation
        headers = {
            "Lambda-Runtime-Aws-Request-Id": invocation.id,
            "Lambda-Runtime-Deadline-Ms": str(invocation.deadline_ms),
            "Lambda-Runtime-Invoked-Function-Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{invocation.function}",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700;Parent=9a9197af755a6419;Sampled=0",
            "Content-Type": "application/json",
        }
        self._respond(200, invocation.event, headers)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == f"{API}/init/error":
            self.server.started.put(body)
        else:
            id_, _, kind = self.path.removeprefix(f"{API}/invocation/").partition("/")
            self.server.running.pop(id_).answer.put((kind, body))
        self._respond(202, b'{"status":"OK"}', {})

    def _respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


class Sandbox:
    """An execution environment of a function. Use it in a ``with`` statement."""

    def __init__(self, function: Function, folders: Folders) -> None:
        self.function = function
        self._api = RuntimeApi()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        self.process = subprocess.Popen(
            [python(), "-S", "-m", "awslambdaric", function.handler],
            env=function.environment(folders, self._api.address),
            cwd=folders.task,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            user=folders.user,
            group=folders.user,
            extra_groups=None if folders.user is None else [],
        )

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGCONT)
        self.kill()
        self._api.close()
        self._output.close()

    @property
    def output(self) -> str:
        self._output.seek(0)
        return self._output.read().decode()

    @cached_property
    def init_error(self) -> dict[str, Any] | None:
        """The error that the client reported instead of asking for an invocation; None: it is ready."""
        first = self._await(self._api.started, START_SECONDS)
        return None if first == b"next" else json.loads(first)

    def invoke(self, event: Any, *, seconds: float | None = None) -> Any:
        """Return the function's response. ``seconds``: the timeout, by default that of the function, or two minutes.

        Raises :class:`FunctionError`, :class:`TimedOutError`, :class:`RuntimeExitError`.
        """
        assert self.init_error is None, self.init_error
        invocation = self.begin(event, seconds=seconds)
        return self.end(invocation)

    def begin(self, event: Any, *, seconds: float | None = None) -> Invocation:
        """Start an invocation, and return without its end."""
        deadline = time.time() + (max(self.function.timeout, PATIENCE_SECONDS) if seconds is None else seconds)
        invocation = Invocation(json.dumps(event).encode(), int(deadline * 1000), self.function.name)
        self._api.pending.put(invocation)
        return invocation

    def end(self, invocation: Invocation) -> Any:
        """Wait for the response, at most until the deadline. Raises as :meth:`invoke`."""
        try:
            kind, body = self._await(invocation.answer, invocation.deadline_ms / 1000 - time.time())
        except queue.Empty:
            self.kill()
            raise TimedOutError(self.output) from None
        if kind == "error":
            raise FunctionError(json.loads(body))
        return json.loads(body)

    def freeze(self) -> None:
        """Stop all work, as Lambda does between two invocations."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def _await(self, source: queue.SimpleQueue[Any], seconds: float) -> Any:
        ends = time.monotonic() + seconds
        while True:
            try:
                return source.get(timeout=min(0.1, max(0.0, ends - time.monotonic())))
            except queue.Empty:
                if self.process.poll() is not None and source.empty():
                    raise RuntimeExitError(f"exit status {self.process.returncode}: {self.output[-2000:]}") from None
                if time.monotonic() >= ends:
                    raise
