"""The CDK app's way into an emulator: `cdk synth`, `cdk bootstrap` and `cdk deploy`, as for AWS."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

from shared.cli.errors import LocalError, tail
from shared.cli.tools import ROOT, cdk, clean_environment

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

ACCOUNT = "000000000000"
TOOLKIT_STACK = "CDKToolkit"


class Deployment:
    """One CDK app on one emulator; templates, outputs and log are in one folder.

    `environment` is added to ours, `context` to that of cdk.json. `app` None is the app of cdk.json.
    """

    def __init__(
        self, folder: Path, environment: Mapping[str, str], context: Mapping[str, str], app: str | None = None
    ) -> None:
        self.log = folder / "deploy.log"
        self._assembly = folder / "cdk.out"
        self._outputs = folder / "outputs.json"
        self._environment = environment
        self._context = context
        self._app = app
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.log.write_bytes(b"")

    def synth(self) -> None:
        """Write the templates; needs no emulator. Its own checks are left to `make synth` and the tests."""
        pairs = [argument for pair in self._context.items() for argument in ("--context", "=".join(pair))]
        app = ["--app", self._app] if self._app else []
        self._cdk("synth", "--quiet", "--output", str(self._assembly), *app, *pairs, CDK_VALIDATION="false")

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

    def _cdk(self, command: str, *arguments: str, **extra: str) -> None:
        environment = {
            **clean_environment(),
            **self._environment,
            "CDK_DISABLE_CLI_TELEMETRY": "true",
            "JSII_SILENCE_WARNING_UNTESTED_NODE_VERSION": "1",
            **extra,
        }
        quiet = ("--ci", "--no-notices", "--no-version-reporting", "--no-color")
        with self.log.open("ab") as log:
            done = subprocess.run(  # noqa: S603
                [str(cdk()), command, *arguments, *quiet],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                check=False,
            )
        if done.returncode != 0:
            raise LocalError(
                f"`cdk {command}` failed (exit status {done.returncode}). The end of {self.log}:\n{tail(self.log, 30)}"
            )

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
