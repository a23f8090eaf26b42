"""The CDK app's way into an emulator: `cdk synth`, `cdk bootstrap` and `cdk deploy`, as for AWS."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from joblane.local.errors import LocalError, tail
from joblane.local.tools import ROOT, cdk, clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ACCOUNT = "000000000000"
TOOLKIT_STACK = "CDKToolkit"


def local_stage(changes: Mapping[str, object]) -> dict[str, Any]:
    """What cdk.json has for the stage `local`, with `changes`."""
    return {**context()["stages"]["local"], **changes}


def context() -> dict[str, Any]:
    """That of cdk.json: `stages` above all."""
    found: dict[str, Any] = json.loads((ROOT / "cdk.json").read_text(encoding="utf-8"))["context"]
    return found


class Deployment:
    """One CDK app on one emulator; templates, outputs and logs are in one folder.

    `environment` is added to ours. `stage` goes over what cdk.json has for the stage `local`. `app` is a module to
    run in place of the project's.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], stage: Mapping[str, object], app: str = "infra.app"
    ) -> None:
        self._folder = folder
        self._assembly = folder / "cdk.out"
        self._outputs = folder / "outputs.json"
        self._environment = environment
        self._stage = stage
        self._app = app

    def synth(self) -> None:
        """Write the templates; needs no emulator. Their validation is left to `make synth` and the tests.

        The app is run as the CDK command line runs it, which saves that one's start.
        """
        stages = {"local": local_stage(self._stage)}
        variables = {
            "CDK_CONTEXT_JSON": json.dumps({**context(), "stages": stages, "stage": "local", "quiet": True}),
            "CDK_OUTDIR": str(self._assembly),
            "CDK_VALIDATION": "false",
        }
        self._run("The synthesis", "cdk-synth", [sys.executable, "-m", self._app], variables, ROOT)

    def bootstrap(self) -> None:
        """Make the bucket and the roles that a deploy needs, where they are not there."""
        if self._exists(TOOLKIT_STACK):
            return
        region = self._environment["AWS_DEFAULT_REGION"]
        self._cdk("bootstrap", f"aws://{ACCOUNT}/{region}")

    def deploy(self) -> None:
        """Bring all stacks of the last synth to the emulator."""
        self._cdk(
            *("deploy", "--all", "--app", str(self._assembly), "--require-approval", "never", "--method", "direct"),
            *("--outputs-file", str(self._outputs)),
        )

    @property
    def outputs(self) -> dict[str, dict[str, str]]:
        """Outputs of the last deploy: stack, name, value."""
        outputs: dict[str, dict[str, str]] = json.loads(self._outputs.read_text(encoding="utf-8"))
        return outputs

    def _cdk(self, command: str, *arguments: str) -> None:
        quiet = ["--ci", "--no-notices", "--no-version-reporting", "--no-color"]
        variables = {"CDK_DISABLE_CLI_TELEMETRY": "true"}
        line = [str(cdk()), command, *arguments, *quiet]
        # Away from cdk.json: with an app in sight, even the bootstrap runs it first.
        self._run(f"`cdk {command}`", f"cdk-{command}", line, variables, self._folder)

    def _run(
        self, what: str, log_name: str, command: Sequence[str], variables: Mapping[str, str], folder: Path
    ) -> None:
        path = self._folder / f"{log_name}.log"
        with path.open("wb") as log:
            done = subprocess.run(  # noqa: S603
                command,
                cwd=folder,
                env={**clean_environment(), **self._environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise LocalError(f"{what} failed (exit status {done.returncode}). The end of {path}:\n{tail(path, 30)}")

    def _exists(self, stack: str) -> bool:
        import boto3
        from botocore.exceptions import ClientError

        client = boto3.client(
            "cloudformation",
            endpoint_url=self._environment["AWS_ENDPOINT_URL"],
            region_name=self._environment["AWS_DEFAULT_REGION"],
            aws_access_key_id=self._environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=self._environment["AWS_SECRET_ACCESS_KEY"],
        )
        try:
            stacks = client.describe_stacks(StackName=stack)["Stacks"]
        except ClientError:
            return False
        finally:
            client.close()
        return any(found["StackStatus"] in ("CREATE_COMPLETE", "UPDATE_COMPLETE") for found in stacks)
