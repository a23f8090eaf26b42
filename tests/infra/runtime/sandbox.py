"""An execution environment of Lambda: a process with the unpacked zips, started by AWS's own runtime client.

The client, the package `awslambdaric` of Lambda's Python runtime, asks :mod:`.runtime_api` for invocations. Source:
Lambda, *Understanding the Lambda execution environment lifecycle*, *Defined runtime
environment variables*.
"""

from __future__ import annotations

import json
import queue
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from joblane.cdk.packaging import RUNNING
from tests.infra.runtime.folders import Folders, python
from tests.infra.runtime.runtime_api import REGION, Invocation, RuntimeApi
from tests.pages import ROOT
from tests.patience import PATIENCE_SECONDS

START_SECONDS = 60
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


class Sandbox:
    """An execution environment of a function. Use it in a ``with`` statement."""

    def __init__(self, function: Function, folders: Folders, *, image: Sequence[str] = ()) -> None:
        """``image``: entry point and command of a container image, which is this environment with its packages."""
        self.function = function
        self._api = RuntimeApi()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        variables = function.environment(folders, self._api.address)
        if image:
            variables |= {"PATH": f"{Path(sys.executable).parent}:{variables['PATH']}", "PYTHONPATH": ""}
        self.process = subprocess.Popen(
            image or [python(), "-S", "-m", "awslambdaric", function.handler],
            env=variables,
            cwd=ROOT if image else folders.task,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            user=None if image else folders.user,
            group=None if image else folders.user,
            extra_groups=None if image or folders.user is None else [],
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
