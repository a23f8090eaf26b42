"""The local stack: PostgreSQL, an AWS emulator, the CDK app deployed on it, and a ticker for the schedules.

.joblane/
  env                  variables with which programs use the stack
  tools/               the emulator, Node, the CDK command line
  build/               code and layer of the functions
  postgres/            data, log, password
  ministack.log        the emulator; each log has a `.log.1`, from the previous start
  ticker.log
  cdk-synth.log        the last synthesis; cdk-bootstrap.log and cdk-deploy.log: the other programs of the CDK
  cdk.out/             templates
  outputs.json         outputs of the stacks
"""

from __future__ import annotations

import atexit
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from joblane.local import env_file
from joblane.local.daemon import Daemon
from joblane.local.deployment import Deployment, app_command, cdk_json, local_stage, stop_programs
from joblane.local.dev import lock
from joblane.local.errors import LocalError
from joblane.local.git import deployer, version_of
from joblane.local.ministack import MiniStack, is_healthy
from joblane.local.postgres import Postgres
from joblane.local.tools import Checklist, Tools, clean_environment
from joblane.names import PLACES
from joblane.project import Project

PREFIX = "jobs"
REGION = "us-east-1"


class LocalStack:
    """A local stack in one folder.

    `project`: the project to deploy; None: from the working folder. `aws_port` and `postgres_port` None: free ports.
    `settings`: environment variables for the synthesis, which gives functions those that their tasks declare. `stage`:
    overrides settings of the stage `local` in cdk.json. `external_endpoint`: the endpoint of an existing emulator; then
    none is started. `detached=False`: the stack stops with this process. `permissions=True`: the emulator enforces the
    permissions of the functions' roles.
    """

    def __init__(
        self,
        folder: Path,
        *,
        project: Project | None = None,
        aws_port: int | None = None,
        postgres_port: int | None = None,
        prefix: str = PREFIX,
        settings: Mapping[str, str] | None = None,
        stage: Mapping[str, object] | None = None,
        external_endpoint: str | None = None,
        detached: bool = True,
        permissions: bool = False,
        console: Console | None = None,
    ) -> None:
        self.folder = folder.resolve()
        self.project = project or Project.here()
        self.prefix = prefix
        self.region = REGION
        self.postgres = Postgres(self.folder / "postgres", postgres_port, detached=detached)
        self.tools = Tools(self.project)
        self.emulator = (
            None
            if external_endpoint
            else MiniStack(self.folder, aws_port, REGION, tools=self.tools, permissions=permissions)
        )
        self.ticker = Daemon("ticker", self.folder)
        self._external_endpoint = external_endpoint
        self._settings = settings or {}
        self._stage = {**(stage or {}), "prefix": prefix}
        self._detached = detached
        self._console = console

    @property
    def endpoint(self) -> str:
        """The endpoint for AWS calls."""
        return self.emulator.endpoint if self.emulator else str(self._external_endpoint)

    @property
    def database_url(self) -> str:
        """The address of the database."""
        return self.postgres.url

    @property
    def env_file(self) -> Path:
        """The file of the variables for programs. It exists only while the stack is up."""
        return self.folder / "env"

    @property
    def environment(self) -> dict[str, str]:
        """Addresses and names in `env_file`. The file has the settings of the tasks, too."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            **env_file.addresses(
                self.endpoint,
                region=self.region,
                database_url=self.database_url,
                project=self.project,
                prefix=self.prefix,
                stage=local_stage(self.project, self._stage),
            ),
        }

    @property
    def deployment(self) -> Deployment:
        """The CDK app on this stack."""
        return Deployment(self.folder, {**self._settings, **self.environment}, self._stage, project=self.project)

    def check(self) -> None:
        """Raise the errors of `up` that can be found before anything is fetched or started."""
        lock.refuse_if_held(self.folder)
        local_stage(self.project, self._stage)
        app_command(cdk_json(self.project).get("app"))
        lock.make_folder(self.folder, self.project)
        self.postgres.check_port()
        if self.emulator:
            self.emulator.check_port()
        elif not is_healthy(self.endpoint):
            raise LocalError(
                f"No AWS emulator answers at {self.endpoint}, the value of JOBLANE_EXTERNAL_ENDPOINT. Start it, or "
                "unset the variable; then an emulator is started here."
            )

    def up(self) -> None:
        """Start the parts that do not run, and deploy the current code. Unchanged stacks are not deployed again.

        Raises: `LocalError`; parts that did start keep running, so that they can be inspected.
        """
        steps = Checklist(self._console or Console(quiet=True))
        self.check()
        with self._alone():
            self.tools.fetch(steps, emulator=self.emulator is not None)
            if not self._detached:
                atexit.register(self.down)
            with steps.step(f"PostgreSQL on 127.0.0.1:{self.postgres.port}"):
                self.postgres.start()
            deployment = self.deployment
            with ThreadPoolExecutor(3) as pool:  # each mostly waits for another program
                jobs = [
                    pool.submit(self._start_emulator, steps, deployment),
                    pool.submit(self._migrate, steps),
                    pool.submit(self._synth, steps, deployment),
                ]
                try:
                    wait(jobs)
                except KeyboardInterrupt:
                    stop_programs(self.folder)  # for which the threads wait
                    raise
            for job in jobs:
                job.result()
            with steps.step("Deployed"):
                deployment.deploy()
                self._finish()
            with steps.step("Ticker"):
                self._start_ticker()
            env_file.write(self.env_file, {**self._task_settings(), **self.environment})

    def down(self) -> None:
        """Stop the programs that `up` has started. The database keeps its data."""
        if not self.folder.exists():
            return
        with self._alone():
            self.env_file.unlink(missing_ok=True)
            self.ticker.stop()
            if self.emulator:
                self.emulator.stop()
            self.postgres.stop()

    def status(self) -> dict[str, tuple[bool, str]]:
        """Return for each part true if it runs, and its address or log."""
        if lock.is_held(self.folder):
            return {
                "PostgreSQL": (self.postgres.running, self.postgres.address),
                "joblane dev": (True, str(self.folder / "dev.log")),
            }
        address = self.emulator.address if self.emulator else self.endpoint
        is_own = self.emulator is None or self.emulator.pid is not None
        return {
            "PostgreSQL": (self.postgres.running, self.postgres.address),
            "AWS emulator": (is_own and is_healthy(address), address),
            "Ticker": (self.ticker.pid is not None, str(self.ticker.log)),
        }

    def output(self, name: str) -> str:
        """Return an output of the deployed stacks. Raises `LocalError` if there is none of that name."""
        found = {key: value for outputs in self.deployment.outputs.values() for key, value in outputs.items()}
        if name not in found:
            raise LocalError(f"No stack has an output {name!r}; there are {', '.join(sorted(found)) or 'none'}.")
        return found[name]

    def _start_emulator(self, steps: Checklist, deployment: Deployment) -> None:
        with steps.step(f"AWS emulator on {self.endpoint}"):
            if self.emulator:
                self.emulator.start()
        with steps.step("CDK bootstrap"):
            deployment.bootstrap()

    def _migrate(self, steps: Checklist) -> None:
        from joblane.record.migrate import migrate

        # the deploy's own migration runs only if the code has changed, and on some emulators never
        with steps.step("Database schema"):
            root = self.project.root
            migrate(self.database_url, prefix=self.prefix, version=version_of(root), by=deployer(root))

    def _finish(self) -> None:
        from joblane.record.deploys import finish_deploy
        from joblane.record.driver.database import Database

        if version := version_of(self.project.root):
            with Database(self.database_url) as database:
                finish_deploy(database.get(), version)

    def _synth(self, steps: Checklist, deployment: Deployment) -> None:
        with steps.step("CDK synth"):
            deployment.synth()

    def _start_ticker(self) -> None:
        self.ticker.stop()  # a running ticker may have old schedules
        command = [sys.executable, "-m", "joblane.local.ticker"]
        self.ticker.launch(command, {**clean_environment(self.project), **self.environment}, self.project.root, {})

    def _task_settings(self) -> dict[str, str]:
        """Return the settings that tasks declare, and the places, with the values of their deployed functions."""
        declared = {*env_file.task_settings(), PLACES}
        functions = self.deployment.function_environments(f"{self.prefix}-")
        return {name: found[name] for found in functions for name in declared & found.keys()}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Lock the folder, so that a second `up` or `down` waits for the first."""
        lock.make_folder(self.folder, self.project)
        with lock.turn(self.folder):
            lock.refuse_if_held(self.folder)
            stop_programs(self.folder)
            yield
