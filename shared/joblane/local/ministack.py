"""The emulator: MiniStack on 127.0.0.1 behind a guard, in an environment without any package of this project.

It runs functions with its own interpreter, packages and environment variables. So a package that is missing in the
layer, or a setting that only this machine has, fails here as it would fail on AWS.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

from joblane.local.daemon import START_SECONDS, Daemon
from joblane.local.errors import LocalError, PortBusyError, tail
from joblane.local.ports import HOST, free_port, port_is_free
from joblane.local.tools import Tools
from joblane.project import Project

PROGRAM = Path(__file__).with_name("emulator.py")
HEALTH_PATH = "/_localstack/health"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class MiniStack(Daemon):
    """An emulator with its log and temporary files in one folder.

    `port` None: a free port. `tools`: the project's tools, which include the emulator.

    Queues, functions and buckets are in memory: after a start the account is empty. With `permissions=True` it enforces
    the permissions of roles as AWS does; the key `test` has all permissions. The output of functions is in log groups
    and not in `log`.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None,
        region: str,
        *,
        tools: Tools | None = None,
        permissions: bool = False,
    ) -> None:
        super().__init__("ministack", folder)
        self.folder = folder
        self.port = port or free_port()
        self._region = region
        self._permissions = permissions
        self._tools = tools or Tools(Project.here())

    @property
    def endpoint(self) -> str:
        """The value of AWS_ENDPOINT_URL for programs."""
        return f"http://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        """The address of the running emulator, or else of the next start."""
        return f"http://{HOST}:{self.started_with.get('port', self.port)}"

    def start(self) -> None:
        """Start the emulator and wait until it answers. Does nothing if it already runs on this port.

        Raises: `PortBusyError`, `LocalError` with the end of the log.
        """
        if self._runs_on_port and is_healthy(self.endpoint):
            return
        self.check_port()
        self.stop()
        temporary = self.folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # functions that a killed emulator had unpacked
        temporary.mkdir(parents=True)
        command = [str(self._tools.emulator_python), "-P", str(PROGRAM)]
        self.launch(command, self._environment(temporary), self.folder, {"port": str(self.port)})
        until = time.monotonic() + START_SECONDS
        while not is_healthy(self.endpoint):
            ended = self.pid is None
            if ended or time.monotonic() > until:
                problem = "ended while it started" if ended else f"did not answer within {START_SECONDS} s"
                self.stop()
                raise LocalError(f"The AWS emulator {problem}. The end of {self.log}:\n{tail(self.log)}")
            time.sleep(0.05)

    def check_port(self) -> None:
        """Raise `PortBusyError` if another program listens on the port."""
        if not self._runs_on_port and not port_is_free(self.port):
            raise PortBusyError("The AWS emulator", self.port, "JOBLANE_AWS_PORT")

    @property
    def _runs_on_port(self) -> bool:
        return self.started_with.get("port") == str(self.port)

    def _environment(self, temporary: Path) -> dict[str, str]:
        return {
            "PATH": os.defpath,
            "HOME": str(temporary),
            "TMPDIR": str(temporary),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "GATEWAY_PORT": str(self.port),
            "BIND_HOST": HOST,
            "MINISTACK_HOST": HOST,
            "MINISTACK_REGION": self._region,
            "LAMBDA_EXECUTOR": "local",
            "SFTP_ENABLED": "0",
            "IOT_MTLS_ENABLED": "0",
            "AUTH": str(self._permissions).lower(),
            "LOG_LEVEL": "INFO",
            "PYTHONUNBUFFERED": "1",
        }


def is_healthy(endpoint: str) -> bool:
    """Return true if an emulator with LocalStack's health path answers at `endpoint`."""
    try:
        with _direct.open(f"{endpoint}{HEALTH_PATH}", timeout=2) as answer:
            return "services" in json.load(answer)
    except (OSError, ValueError):  # refused, no answer, or another program's answer
        return False
