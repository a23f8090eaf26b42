"""The emulator: MiniStack on 127.0.0.1 behind a guard, in an environment that holds nothing of this project.

It runs functions with its own interpreter, packages and environment variables. Standing alone, it misses what AWS would
miss: a package that the layer forgot, a setting that only this machine has.
"""

from __future__ import annotations

import json
import os
import shutil
import time
import urllib.request
from pathlib import Path

from joblane.local.daemon import Daemon
from joblane.local.errors import LocalError, PortBusyError, tail
from joblane.local.ports import HOST, free_port, port_is_free
from joblane.local.tools import Tools
from joblane.project import Project

PROGRAM = Path(__file__).with_name("emulator.py")
START_SECONDS = 60.0
HEALTH_PATH = "/_localstack/health"
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class MiniStack(Daemon):
    """One emulator with its log and temporary files in one folder. `port` None takes a free one; `tools` have it.

    Its queues, functions and buckets live in memory: a new start is an empty account. `permissions=True` lets it refuse
    what a role does not allow, as AWS does; the key `test` may do anything. Log groups have what functions write; `log`
    does not.
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
        """What programs set AWS_ENDPOINT_URL to."""
        return f"http://{HOST}:{self.port}"

    @property
    def address(self) -> str:
        """Where the emulator listens, or will."""
        return f"http://{HOST}:{self.started_with.get('port', self.port)}"

    def start(self) -> None:
        """Start it and wait until it answers; nothing where it runs on this port already.

        Raises: `PortBusyError`, `LocalError` with the end of the log.
        """
        if self.started_with.get("port") == str(self.port) and is_healthy(self.endpoint):
            return
        self.stop()
        if not port_is_free(self.port):
            raise PortBusyError("The AWS emulator", self.port, "JOBLANE_AWS_PORT")
        temporary = self.folder / "tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # unpacked functions of an emulator that was killed
        temporary.mkdir(parents=True)
        command = [str(self._tools.emulator_python), "-P", str(PROGRAM)]
        self.launch(command, self._environment(temporary), self.folder, {"port": str(self.port)})
        until = time.monotonic() + START_SECONDS
        while not is_healthy(self.endpoint):
            ended = self.pid is None
            if ended or time.monotonic() > until:
                what = "ended while it started" if ended else f"was silent for {START_SECONDS:.0f} s"
                self.stop()
                raise LocalError(f"The AWS emulator {what}. The end of {self.log}:\n{tail(self.log)}")
            time.sleep(0.05)

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
    """Whether an emulator of LocalStack's kind answers there."""
    try:
        with _direct.open(f"{endpoint}{HEALTH_PATH}", timeout=2) as answer:
            return "services" in json.load(answer)
    except (OSError, ValueError):  # refused, silent, or something else that speaks
        return False
