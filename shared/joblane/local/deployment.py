"""The deploy of the CDK app to an emulator: `cdk synth`, `cdk bootstrap` and `cdk deploy`, as for AWS."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from joblane.local.daemon import Daemon
from joblane.local.errors import LocalError, tail
from joblane.local.tools import Tools, clean_environment
from joblane.project import Project

ACCOUNT = "000000000000"
TOOLKIT_STACK = "CDKToolkit"
PROGRAMS = ("cdk-synth", "cdk-bootstrap", "cdk-deploy")
STEP_SECONDS = 600
"""Time limit of a program of the CDK."""
UNFINISHED = re.compile(r"is in \w+_IN_PROGRESS state")
"""Part of CloudFormation's error for a stack whose last deploy was killed."""
OWN_APP = (
    "`joblane init` in an empty folder writes a cdk.json with the stages. For an existing CDK app, see "
    "docs/how-to/own-cdk-app.md."
)


def cdk_json(project: Project) -> dict[str, Any]:
    """Return the project's ``cdk.json``: ``app``, the command of the CDK app, and ``context`` with ``stages``.

    Raises :class:`LocalError` if there is no file or it has no stages.
    """
    file = project.root / "cdk.json"
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LocalError(f"There is no {file}: `joblane init` writes one.") from None
    except OSError as error:
        raise LocalError(f"{file} cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise LocalError(f"{file} is not JSON: {error}") from None
    context = found.get("context") if isinstance(found, dict) else None
    if not isinstance(context, dict) or not isinstance(context.get("stages"), dict):
        raise LocalError(f"{file} has no `stages` in its `context`, the settings of each stage by its name. {OWN_APP}")
    return found


def context(project: Project | None = None) -> dict[str, Any]:
    """Return the context of ``cdk.json``, which has ``stages``."""
    found: dict[str, Any] = cdk_json(project or Project.here())["context"]
    return found


def local_stage(project: Project, changes: Mapping[str, object]) -> dict[str, Any]:
    """Return the stage ``local`` of ``cdk.json``, with ``changes``. Raises :class:`LocalError` if there is none."""
    stages = context(project)["stages"]
    if not isinstance(stages.get("local"), dict):
        raise LocalError(
            f"{project.root / 'cdk.json'} has no stage `local` in its `context.stages`. The local stack deploys this "
            f"stage. {OWN_APP}"
        )
    return {**stages["local"], **changes}


def app_command(app: object) -> list[str]:
    """Return the command of the CDK app, with this Python in place of ``python``. ``app``: the value in ``cdk.json``.

    Raises :class:`LocalError` if there is no command.
    """
    if not isinstance(app, str) or not app.strip():
        raise LocalError("cdk.json has no `app`: the command of the CDK app, such as `python infra/app.py`.")
    command = shlex.split(app)
    if command[0] in ("python", "python3"):
        command[0] = sys.executable
    return command


def errors_since(log: Path, offset: int, lines: int = 5) -> str:
    """Return the last ``lines`` of level ERROR in the emulator's log, from byte ``offset``; empty if there are none."""
    if not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(offset)
        text = file.read().decode("utf-8", "replace")
    return "\n".join([line for line in text.splitlines() if " ERROR [" in line][-lines:])


def cdk_command(project: Project, command: str, *arguments: str) -> list[str]:
    """Return a command line of the project's own CDK, which prints no notices. Raises :class:`LocalError`."""
    return [str(Tools(project).cdk), command, *arguments, "--no-notices", "--no-version-reporting"]


def cdk_variables(project: Project) -> dict[str, str]:
    """Return variables for :func:`cdk_command`. Node keeps the compiled command line, a fifth of its start.

    Not for a command that runs the app: jsii starts Node in a new folder each time, which would fill the cache.
    """
    cache = os.environ.get("NODE_COMPILE_CACHE") or str(project.folder / "cache" / "node")
    return {"CDK_DISABLE_CLI_TELEMETRY": "true", "NODE_COMPILE_CACHE": cache}


def stop_programs(folder: Path) -> None:
    """Kill the programs of the CDK that a killed :class:`Deployment` in ``folder`` has left running."""
    for name in PROGRAMS:
        Daemon(name, folder).kill()


class Deployment:
    """A CDK app on an emulator. Templates, outputs and logs are in one folder.

    `environment` is added to the environment of this process. `stage` overrides settings of the stage `local` in
    cdk.json. `app` is a command that replaces the one in cdk.json.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        stage: Mapping[str, object],
        *,
        project: Project | None = None,
        app: str | None = None,
    ) -> None:
        self._folder = folder
        self._project = project or Project.here()
        self._assembly = folder / "cdk.out"
        self._outputs = folder / "outputs.json"
        self._environment = environment
        self._stage = stage
        self._app = app

    def synth(self) -> None:
        """Write the templates, without an emulator. `make synth` and the tests validate them.

        The app is run directly, as the CDK command line would, which saves the start of the command line.
        """
        given = cdk_json(self._project)
        stages = {"local": local_stage(self._project, self._stage)}
        variables = {
            "CDK_CONTEXT_JSON": json.dumps({**given["context"], "stages": stages, "stage": "local", "quiet": True}),
            "CDK_OUTDIR": str(self._assembly),
            "CDK_VALIDATION": "false",
        }
        self._assembly.mkdir(mode=0o700, exist_ok=True)  # the templates contain the database's password
        command = app_command(self._app or given.get("app"))
        self._run("The synthesis", "cdk-synth", command, variables, self._project.root)

    def bootstrap(self) -> None:
        """Create the bucket and the roles that a deploy needs, if they do not exist."""
        if not self._exists(TOOLKIT_STACK):
            self._cdk("bootstrap", f"aws://{ACCOUNT}/{self._environment['AWS_DEFAULT_REGION']}")

    def deploy(self) -> None:
        """Deploy all stacks of the last synth to the emulator."""
        self._cdk(
            *("deploy", "--all", "--app", str(self._assembly), "--require-approval", "never", "--method", "direct"),
            *("--outputs-file", str(self._outputs)),
        )

    @property
    def outputs(self) -> dict[str, dict[str, str]]:
        """Outputs of the last deploy: stack → name → value."""
        outputs: dict[str, dict[str, str]] = json.loads(self._outputs.read_text(encoding="utf-8"))
        return outputs

    def _cdk(self, command: str, *arguments: str) -> None:
        line = cdk_command(self._project, command, *arguments, "--ci", "--no-color")
        # Outside the folder of cdk.json: there even the bootstrap would run the app first.
        self._run(f"`cdk {command}`", f"cdk-{command}", line, cdk_variables(self._project), self._folder)

    def _run(self, step: str, name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path) -> None:
        program, emulator = Daemon(name, self._folder), self._folder / "ministack.log"
        path = program.log
        before = emulator.stat().st_size if emulator.exists() else 0
        environment = {**clean_environment(self._project), **self._environment, **variables}
        status: int | None = None
        try:
            status = program.run(command, environment, folder, STEP_SECONDS)
        except subprocess.TimeoutExpired:
            problem = f"{step} was stopped after {STEP_SECONDS} s."
        except FileNotFoundError as error:
            raise LocalError(f"{step} could not start: {error.filename} does not exist.") from None
        else:
            if status == 0:
                return
            problem = f"{step} failed (exit status {status})."
        end = tail(path, 30)
        refusal = f"\n{end}".rpartition("\njoblane: ")[2]  # the app's last output, or all of it
        is_refused = status == 1 and refusal != f"\n{end}" and "Traceback" not in refusal
        parts = [f"{refusal}\n{problem} Its log: {path}" if is_refused else f"{problem} The end of {path}:\n{end}"]
        if causes := errors_since(emulator, before):
            parts.append(f"Errors in {emulator}:\n{causes}")
        if UNFINISHED.search(end):
            parts.append("The previous deploy did not end. Run `joblane down`, then `joblane up`, to start afresh.")
        raise LocalError("\n".join(parts))

    def function_environments(self, prefix: str) -> list[dict[str, str]]:
        """Return the variables of the deployed functions whose names begin with ``prefix``."""
        with closing(self._client("lambda")) as client:
            pages = client.get_paginator("list_functions").paginate()
            found = [function for page in pages for function in page["Functions"]]
        own = [function for function in found if function["FunctionName"].startswith(prefix)]
        return [function.get("Environment", {}).get("Variables", {}) for function in own]

    def _exists(self, stack: str) -> bool:
        from botocore.exceptions import ClientError

        with closing(self._client("cloudformation")) as client:
            try:
                stacks = client.describe_stacks(StackName=stack)["Stacks"]
            except ClientError:
                return False
        return any(found["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE") for found in stacks)

    def _client(self, service: str) -> Any:
        import boto3

        return boto3.client(  # type: ignore[call-overload]
            service,
            endpoint_url=self._environment["AWS_ENDPOINT_URL"],
            region_name=self._environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
        )
