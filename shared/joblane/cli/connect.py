"""From a command to its inspector: the local stack, or a stage on AWS by its control API."""

from __future__ import annotations

import getpass
import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit

from joblane.local import env_file
from joblane.local.deployment import context
from joblane.local.errors import ForbiddenError, LocalError, MisuseError, UnavailableError
from joblane.project import Project

if TYPE_CHECKING:
    from collections.abc import Mapping

    from boto3.session import Session

    from joblane.inspector.inspector import Inspector
    from joblane.inspector.remote import RemoteInspector
    from joblane.record.database import Database

ENVIRONMENT = "DATABASE_URL of the environment"
"""Where an address is from that is not the local stack's."""
CONTROL_URL = "ControlUrl"
"""Output of the stack ``PREFIX-control``."""


def connect(*, stage: str | None, profile: str | None, region: str | None) -> Inspector:
    """The inspector of a stage on AWS; without ``stage`` that of the local stack, or of what the environment names.

    Where ``DATABASE_URL`` is not set, all settings are those of ``.joblane/env`` of the project. They
    become this process's environment. Raises :class:`LocalError`, most often as :class:`UnavailableError`.
    """
    if stage is None:
        return _local(profile, region)
    return cast("Inspector", _remote(stage, profile, region))  # it has the same operations, of the same types


# --- Here ----------------------------------------------------------------------------------------------------------


def _local(profile: str | None, region: str | None) -> Inspector:
    from joblane import settings
    from joblane.discovery import discover
    from joblane.errors import DeclarationError
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.scope import Scope
    from joblane.queues import check_prefix
    from joblane.record.database import Database
    from joblane.sqs.client import Sqs

    source = settle(profile, region)
    try:
        prefix = check_prefix(settings.prefix())
    except DeclarationError as error:
        raise LocalError(f"JOBLANE_PREFIX is wrong: {error}") from error
    try:
        database = Database(url := settings.database_url(), prefix=prefix)
    except ValueError as error:
        raise LocalError(f"{error}, and {source} has another. Correct it there.") from error
    _look(database, url, source)
    return Inspector(
        Scope(
            database=database,
            sqs=Sqs(),
            prefix=prefix,
            tasks=discover(),
            who=f"{_user()}@{socket.gethostname()}",
            region=os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "",
        )
    )


def settle(profile: str | None, region: str | None) -> str:
    """Let the environment hold the settings, and return where they are from."""
    if os.environ.get("DATABASE_URL", "").strip():
        chosen = {"AWS_PROFILE": profile, "AWS_REGION": region, "AWS_DEFAULT_REGION": region}
        os.environ.update({name: value for name, value in chosen.items() if value})
        return ENVIRONMENT
    file = Path(os.environ.get("JOBLANE_LOCAL") or Project.here().folder).resolve() / "env"
    if not file.is_file():
        raise UnavailableError(
            f"Nothing says where to look: DATABASE_URL is not set, and there is no {file}. Start the local stack by "
            "`joblane up`, or name a stage of cdk.json by --stage."
        )
    if profile or region:
        raise MisuseError(
            "--profile and --region are for a stage on AWS: name it by --stage. The local stack has its own."
        )
    variables = env_file.read(file)
    ours, theirs = (each.get("JOBLANE_PREFIX", "").strip() for each in (os.environ, variables))
    if ours and theirs and ours != theirs:
        raise MisuseError(
            f"JOBLANE_PREFIX is {ours}, and the local stack of {file} has {theirs}: unset the variable, or set"
            " DATABASE_URL to the database of that stage."
        )
    # all of them, or what the shell says of an account would be mixed with an emulator
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ.update(variables)
    return str(file)


def _look(database: Database, url: str, source: str) -> None:
    """Raise :class:`LocalError` where the database does not let us in; warn of a schema of newer code."""
    from pg8000.exceptions import DatabaseError
    from pg8000.exceptions import Error as PostgresError

    from joblane.cli.terminal import say
    from joblane.errors import sqlstate
    from joblane.record import migrations
    from joblane.record.login import LoginError

    try:
        connection = database.get()
    except (PostgresError, OSError) as error:
        refused = sqlstate(error) is not None or isinstance(error, LoginError)
        raise unavailable(url, source, "does not let us in" if refused else "does not answer", error) from error
    with suppress(DatabaseError):  # a role that may not read the revision is not warned
        if migrations.is_newer(revision := migrations.applied(connection)):
            say(f"Warning: the schema is at {revision}, newer than this code ({migrations.newest()}).")


def unavailable(url: str, source: str, what: str, error: Exception) -> UnavailableError:
    """The error for a database that cannot be used. ``source``: where its address is from; ``what``: the predicate."""
    from joblane.errors import text_of

    where = urlsplit(url)
    hint = "" if source == ENVIRONMENT else " Is the local stack up? `joblane status` says, `joblane up` starts it."
    return UnavailableError(
        f"The database at {where.hostname}:{where.port or 5432} (from {source}) {what}: "
        f"{text_of(error).rstrip('.')}.{hint}"
    )


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid-{os.getuid()}"


# --- On AWS --------------------------------------------------------------------------------------------------------


def _remote(stage: str, profile: str | None, region: str | None) -> RemoteInspector:
    import boto3
    from botocore.exceptions import BotoCoreError, ProfileNotFound

    from joblane.inspector.remote import RemoteInspector, no_credentials

    stack = f"{(prefix := _prefix_of(stage))}-control"
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
        raise UnavailableError("No AWS region is set: give --region, or set AWS_REGION, to that of the stage.")
    url = _address(session, stage, stack)
    bundle = session._session.get_config_variable("ca_bundle")
    return RemoteInspector(
        url, stage=stage, prefix=prefix, region=session.region_name, credentials=credentials, verify=bundle or True
    )


def _prefix_of(stage: str) -> str:
    """Raises :class:`LocalError`, naming the stages that there are."""
    stages: Mapping[str, Any] = context()["stages"]
    on_aws = [name for name, settings in stages.items() if not settings.get("local")]
    if stage not in stages:
        raise MisuseError(f"cdk.json has no stage {stage!r}; on AWS there are {', '.join(on_aws) or 'none'}.")
    if stage not in on_aws:
        raise MisuseError(f"Stage {stage!r} is the one on this machine: leave --stage out.")
    return str(stages[stage].get("prefix", "jobs"))


def _address(session: Session, stage: str, stack: str) -> str:
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError, InvalidRegionError

    from joblane.inspector.remote import no_credentials

    where = f"DescribeStacks of {stack} in {session.region_name}"
    try:
        client = session.client("cloudformation", config=Config(connect_timeout=5, retries={"total_max_attempts": 2}))
        (found,) = client.describe_stacks(StackName=stack)["Stacks"]
    except ClientError as error:
        text = error.response["Error"].get("Message", str(error))
        if "does not exist" in text:  # there is no code of its own for this
            raise UnavailableError(
                f"{where}: there is no such stack. Deploy stage {stage!r} with a setting `control` in cdk.json, or "
                "give the --region and --profile that it is deployed with."
            ) from error
        raise ForbiddenError(
            f"{where}: {text}. Whoever asks needs cloudformation:DescribeStacks on it, which each of the stage's "
            "managed policies …-view-REGION, …-operate-REGION and …-edit-REGION gives."
        ) from error
    except InvalidRegionError as error:
        raise MisuseError(f"--region: {session.region_name!r} is not the name of a region") from error
    except BotoCoreError as error:
        if "redential" in type(error).__name__ or "Token" in type(error).__name__:
            raise UnavailableError(no_credentials(error)) from error
        raise UnavailableError(
            f"{where}: {str(error).rstrip('.')}. Check the network, a proxy, and --region."
        ) from error
    outputs = {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}
    if CONTROL_URL not in outputs:
        raise UnavailableError(
            f"{where}: it is {found['StackStatus']} and has no output {CONTROL_URL}; deploy stage {stage!r}."
        )
    return outputs[CONTROL_URL]
