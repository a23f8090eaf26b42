"""The inspector of a command: for the local stack, or for a stage on AWS by its control API."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from joblane.errors import DeclarationError, text_of
from joblane.local import env_file
from joblane.local.errors import ForbiddenError, LocalError, MisuseError, UnavailableError
from joblane.names import CONTROL_URL, PAGE_URL, check_prefix
from joblane.project import Project, ProjectError

if TYPE_CHECKING:
    from boto3.session import Session
    from botocore.credentials import Credentials

    from joblane.inspector.inspector import Inspector
    from joblane.inspector.remote import RemoteInspector
    from joblane.record.driver.database import Database
    from joblane.tasks.task import Task

ENVIRONMENT = "DATABASE_URL of the environment"
"""The source of an address that is not the local stack's."""


class Declared(Mapping[str, "Task[Any, Any]"]):
    """The tasks of the project. An operation that needs none does not import their handlers."""

    def __init__(self) -> None:
        self._lock = Lock()

    @cached_property
    def _found(self) -> Mapping[str, Task[Any, Any]]:
        from joblane.tasks.discovery import discover

        return discover()

    def __getitem__(self, type_: str) -> Task[Any, Any]:
        with self._lock:  # of two threads that need them at once, one imports
            return self._found[type_]

    def __iter__(self) -> Iterator[str]:
        with self._lock:
            return iter(self._found)

    def __len__(self) -> int:
        with self._lock:
            return len(self._found)


def connect(*, stage: str | None, profile: str | None, region: str | None) -> Inspector:
    """The inspector of a stage on AWS; without ``stage``, of the local stack or of the environment's database.

    If ``DATABASE_URL`` is not set, all settings come from ``.joblane/env`` of the project, and replace this process's
    environment. Raises :class:`LocalError`, most often an :class:`UnavailableError`.
    """
    if stage is None:
        return _local(profile, region)
    return cast("Inspector", _remote(stage, profile, region))  # it has the same operations, of the same types


# --- On this machine -----------------------------------------------------------------------------------------------


def _local(profile: str | None, region: str | None) -> Inspector:
    from joblane import settings
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.scope import Scope
    from joblane.record.audit import user_of_process
    from joblane.record.driver.database import Database
    from joblane.sqs.client import Sqs

    source = load_settings(profile, region)
    try:
        prefix = check_prefix(settings.prefix())
    except DeclarationError as error:
        raise LocalError(f"JOBLANE_PREFIX is wrong: {error}") from error
    try:
        database = Database(url := settings.database_url(), prefix=prefix)
    except ValueError as error:
        raise LocalError(f"{error}, and {source} has another value. Correct it there.") from error
    _check_connection(database, url, source)
    return Inspector(
        Scope(
            database=database,
            sqs=Sqs(),
            prefix=prefix,
            tasks=Declared(),
            who=user_of_process(),
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "",
            ticker_runs=ticker_runs,
        )
    )


def ticker_runs(folder: Path | None = None) -> bool:
    """False if the ticker of the project's local stack does not run; true if this process cannot know it: the stack has
    another folder, or is of another machine. ``folder`` None: of the project."""
    try:
        from joblane.local.daemon import Daemon

        ticker = Daemon("ticker", folder or Project.here().folder)
    except (ImportError, ProjectError, OSError):  # without the extra of the local stack, or outside of a project
        return True
    return not ticker.log.exists() or ticker.pid is not None


def load_settings(profile: str | None, region: str | None) -> str:
    """Load the settings into the environment, and return their source."""
    if os.environ.get("DATABASE_URL", "").strip():
        chosen = {"AWS_PROFILE": profile, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        os.environ.update({name: value for name, value in chosen.items() if value})
        return ENVIRONMENT
    file = Path(os.environ.get("JOBLANE_LOCAL") or Project.here().folder).resolve() / "env"
    if not file.is_file():
        raise UnavailableError(
            f"No database is configured: DATABASE_URL is not set, and there is no {file}. Start `joblane dev` or "
            "`joblane up` here, or give --stage with a stage of cdk.json."
        )
    if profile or region:
        raise MisuseError("--profile and --region are for a stage on AWS: give --stage as well.")
    variables = env_file.read(file)
    given, expected = (each.get("JOBLANE_PREFIX", "").strip() for each in (os.environ, variables))
    if given and expected and given != expected:
        raise MisuseError(
            f"JOBLANE_PREFIX is {given}, and the local stack of {file} has {expected}: unset the variable, or set"
            " DATABASE_URL to the database of that stage."
        )
    # all of them, or settings of an AWS account in the shell would be mixed with the settings of the emulator
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(variables)
    return str(file)


def _check_connection(database: Database, url: str, source: str) -> None:
    """Raise :class:`UnavailableError` if the connection fails; warn if the schema is newer than this code.

    A database of RDS may be asleep, and is waited for.
    """
    from pg8000.exceptions import DatabaseError, Error

    from joblane.cli.terminal import say
    from joblane.record import migrations
    from joblane.record.driver.login import RDS_HOST
    from joblane.record.driver.time_limits import RESUME_SECONDS
    from joblane.record.driver.waking import connect_patiently

    patience = RESUME_SECONDS if RDS_HOST.search(urlsplit(url).hostname or "") else 0
    waits = f"The database does not answer yet. If it is asleep, it starts within a minute: waiting for {patience} s."
    try:
        connect_patiently(database, patience, on_wait=lambda: say(waits))
        connection = database.get()
    except (Error, OSError) as error:
        raise unavailable(url, source, "connect to", error) from error
    with suppress(DatabaseError):  # a role that may not read the revision gets no warning
        if migrations.is_newer(revision := migrations.applied(connection)):
            say(f"Warning: the schema is at {revision}, newer than this code ({migrations.newest()}).")


def unavailable(url: str, source: str, action: str, error: Exception) -> UnavailableError:
    """The error for an ``action`` on a database that failed. ``source``: the source of its address."""
    from joblane.record.driver.advice import advice_for

    where = urlsplit(url)
    reason = re.sub(r"^\[Errno -?\d+\] ", "", text_of(error).rstrip("."))
    hint = "" if source == ENVIRONMENT else " Is the local stack up? `joblane status` shows it, `joblane up` starts it."
    if (advice := advice_for(error)) is not None:  # the server has answered
        hint = f" {advice[0].upper()}{advice[1:]}."
    return UnavailableError(
        f"Cannot {action} the database at {where.hostname}:{where.port or 5432} (from {source}): {reason}.{hint}"
    )


# --- On AWS --------------------------------------------------------------------------------------------------------


def _remote(stage: str, profile: str | None, region: str | None) -> RemoteInspector:
    from botocore.session import Session as Configuration

    from joblane.inspector.remote import RemoteInspector

    stack = f"{(prefix := prefix_of(stage))}-control"
    session = aws_session(profile, region)
    outputs = _outputs(session, stage, stack)
    bundle = Configuration(profile=profile).get_config_variable("ca_bundle")
    return RemoteInspector(
        _on_emulator(outputs[CONTROL_URL]),
        page_url=outputs.get(PAGE_URL),
        stage=stage,
        prefix=prefix,
        region=session.region_name,
        credentials=cast("Credentials", session.get_credentials()),
        verify=bundle or True,
    )


def aws_session(profile: str | None, region: str | None) -> Session:
    """Return a session with credentials and a region. None: from the environment.

    Raises :class:`MisuseError` and :class:`UnavailableError`.
    """
    import boto3
    from botocore.exceptions import BotoCoreError, ProfileNotFound

    from joblane.inspector.remote import no_credentials

    try:
        # boto3 itself reads AWS_DEFAULT_REGION alone
        session = boto3.session.Session(profile_name=profile, region_name=region or os.environ.get("AWS_REGION"))
        credentials = session.get_credentials()
    except ProfileNotFound as error:
        raise MisuseError(no_credentials(error)) from error
    except BotoCoreError as error:
        raise UnavailableError(no_credentials(error)) from error
    if credentials is None:
        raise UnavailableError(no_credentials(None))
    if not session.region_name:
        raise UnavailableError("No AWS region is set: give --region, or set AWS_REGION, with the stage's region.")
    return session


def account_of(session: Session) -> str:
    """Return the id of the account. Raises :class:`MisuseError` and :class:`UnavailableError`."""
    from botocore.exceptions import ClientError

    from joblane.inspector.remote import no_credentials

    with _client(session, "sts", f"GetCallerIdentity in {session.region_name}") as client:
        try:
            return str(client.get_caller_identity()["Account"])
        except ClientError as error:  # every identity may make this call: the credentials are wrong or have expired
            raise UnavailableError(no_credentials(error)) from error


@contextmanager
def _client(session: Session, service: Any, call: str) -> Iterator[Any]:
    """A client for a call, whose errors name it if they are not the service's own.

    Raises :class:`MisuseError` and :class:`UnavailableError`.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, InvalidRegionError

    from joblane.inspector.remote import no_credentials

    config = Config(connect_timeout=5, retries={"total_max_attempts": 2})
    try:
        with closing(session.client(service, config=config)) as client:
            yield client
    except InvalidRegionError as error:
        raise MisuseError(f"--region: {session.region_name!r} is not the name of an AWS region") from error
    except BotoCoreError as error:
        if "redential" in type(error).__name__ or "Token" in type(error).__name__:
            raise UnavailableError(no_credentials(error)) from error
        raise UnavailableError(
            f"{call}: {str(error).rstrip('.')}. Check the network, the proxy, and --region."
        ) from error


def use_for_programs(session: Session, profile: str | None) -> None:
    """Let this process's default session and the programs that it starts use ``session``.

    ``profile``: the profile of --profile, which takes precedence over keys of the environment.
    """
    if profile:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
            os.environ.pop(name, None)
        os.environ["AWS_PROFILE"] = profile
    os.environ["AWS_REGION"] = os.environ["AWS_DEFAULT_REGION"] = session.region_name


def prefix_of(stage: str) -> str:
    """The prefix of a stage on AWS. Raises :class:`MisuseError`, which lists the stages of cdk.json."""
    from joblane.local.deployment import context

    stages = context()["stages"]
    on_aws = [name for name, settings in stages.items() if not settings.get("local")]
    if stage not in stages:
        raise MisuseError(f"cdk.json has no stage {stage!r}; its stages on AWS: {', '.join(on_aws) or 'none'}.")
    if stage not in on_aws:
        raise MisuseError(f"Stage {stage!r} is the local stack of this machine: leave --stage out.")
    return str(stages[stage].get("prefix", "jobs"))


def _outputs(session: Session, stage: str, stack: str) -> dict[str, str]:
    """Return the outputs of the stack, with :data:`~joblane.names.CONTROL_URL`."""
    from botocore.exceptions import ClientError

    where = f"DescribeStacks of {stack} in {session.region_name}"
    with _client(session, "cloudformation", where) as client:
        try:
            (found,) = client.describe_stacks(StackName=stack)["Stacks"]
        except ClientError as error:
            text = error.response["Error"].get("Message", str(error))
            if "does not exist" in text:  # AWS has no error code of its own for this
                raise UnavailableError(
                    f"{where}: there is no such stack. Deploy stage {stage!r} with the setting `control` in cdk.json, "
                    "or give the --region and --profile of its deployment."
                ) from error
            raise ForbiddenError(
                f"{where}: {text}. The caller needs cloudformation:DescribeStacks on it, which each of the stage's "
                "managed policies …-view-REGION, …-operate-REGION and …-edit-REGION grants."
            ) from error
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    if CONTROL_URL not in outputs:
        raise UnavailableError(
            f"{where}: the stack is {found['StackStatus']} and has no output {CONTROL_URL}; deploy stage {stage!r}."
        )
    return outputs


def _on_emulator(url: str) -> str:
    """Return the address of an HTTP API on an emulator of this machine, else ``url``.

    An emulator does not resolve the names of AWS. Source: LocalStack, *API Gateway*, on custom ids and URLs.
    """
    from joblane.record.driver.login import LOOPBACK

    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    if urlsplit(endpoint).hostname not in LOOPBACK:
        return url
    api = (urlsplit(url).hostname or "").partition(".")[0]
    return f"{endpoint.rstrip('/')}/_aws/execute-api/{api}/$default"
