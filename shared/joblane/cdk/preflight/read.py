"""Readers of the data for :mod:`joblane.cdk.preflight.compare`: the checkout, AWS and the stage's database."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from joblane.cdk.checks import mappings_of
from joblane.cdk.preflight.compare import DatabaseState, Declared, Place, examine
from joblane.cdk.preflight.concurrency import Account, Demand
from joblane.cdk.preflight.findings import Finding, FindingKind, note, refused, unchecked
from joblane.cdk.preflight.moves import GONE
from joblane.cdk.preflight.roles import READ as READ_ROLES
from joblane.cdk.preflight.roles import Roles, Wanted, roles
from joblane.cdk.settings.images import CONTEXT
from joblane.cdk.shares import sharing_lanes
from joblane.cdk.templates import (
    NESTED,
    SETTINGS,
    Properties,
    Template,
    metadata,
    of_type,
    read_assembly,
    stacks_of,
    whole,
)
from joblane.inspector.unavailable import DENIED
from joblane.local.deployment import app_command, cdk_json
from joblane.local.errors import LocalError, MisuseError, UnavailableError
from joblane.names import Queue
from joblane.project import Project
from joblane.record.row.states import LIVE_SQL
from joblane.sqs.depth import ATTRIBUTES

if TYPE_CHECKING:
    from boto3.session import Session
    from mypy_boto3_cloudformation import CloudFormationClient
    from mypy_boto3_lambda import LambdaClient
    from mypy_boto3_sqs import SQSClient

    from joblane.record.driver.connection import Connection
    from joblane.tasks.task import Task

PAGE = 1000
"""Without a page size, SQS returns no second page. Source: ListQueues, SQS API reference."""
TYPES_SHOWN = 5
AT_ONCE = 16
"""Queues and functions read at the same time."""
AFTER_THE_PREFIX = re.compile(rf"-(({'|'.join(Queue)})(-.+)?|(cron|events)-dlq)")
"""Rest of a queue's name: a front door, a lane, a DLQ of these, or the DLQ of schedules or events."""
QUEUE_WORD = re.compile(rf"-({'|'.join(Queue)})(?=-|$)")
"""The part of a queue's name after the prefix. A prefix or a type may contain one, too."""

LIVE = f"""
select type, queue, count(*) from joblane.tasks where finished_at is null and state in {LIVE_SQL}
 group by type, queue
"""
LIMITED = """
select type, array[split_part(key_limit, '/', 1) || '/', total_limit, shared_limit], count(*) from joblane.tasks
 where finished_at is null and seq is not null group by 1, 2
"""
KEYS = "select type, flow -> 'key' from joblane.task_types where flow is not null"
# reserved_connections exists from PostgreSQL 16
CONNECTIONS = """
select current_setting('max_connections')::int,
       current_setting('superuser_reserved_connections')::int
       + coalesce(current_setting('reserved_connections', true), '0')::int
"""

T = TypeVar("T")


def check_deploy(stage: str, assembly: Path, *, leaves: str | None = None) -> list[Finding]:
    """Return all findings on a deploy of ``assembly``, worst first. Region and credentials are of the environment.

    ``leaves``: resource id of a restored copy that the stage uses now and, as the operator confirms, will leave.

    Raises :class:`LocalError` if AWS cannot be reached.
    """
    import boto3

    from joblane.cdk.preflight import images, keys, moves, plan, restored
    from joblane.cdk.preflight.region import Needs, findings_on_pauses, findings_on_region
    from joblane.tasks.discovery import discover

    declared = read_declared(templates := read_templates(assembly), (tasks := discover(times={})).values())
    if declared.stage != stage:
        raise MisuseError(f"{assembly}: its templates are of stage {declared.stage!r}, not {stage!r}")
    # boto3 itself reads AWS_DEFAULT_REGION alone
    session = boto3.session.Session(region_name=os.environ.get("AWS_REGION") or None)
    read = partial(_read, session)
    stacks = read("cloudformation", "the stacks", "cloudformation:ListStackResources", lambda c: deployed(c, templates))
    queues, functions = (stacks, ()) if isinstance(stacks, Finding) else stacks
    parts = {
        "stacks": queues,
        "messages": read(
            "sqs",
            "the queues",
            "sqs:ListQueues and sqs:GetQueueAttributes",
            lambda client: messages_in_queues(client, declared.prefix),
        ),
        "account": read(
            "lambda",
            "Lambda concurrency",
            "lambda:GetAccountSettings, lambda:ListEventSourceMappings and lambda:GetFunctionConcurrency",
            lambda client: account(client, declared.prefix, functions),
        ),
        "database": read_database(os.environ.get("DATABASE_URL", "").strip(), declared.prefix, Wanted.of(templates)),
    }
    used = read("cloudformation", moves.WHAT, moves.PERMISSIONS, lambda c: moves.read_deployed(c, declared.prefix))
    unread = [part for part in (*parts.values(), used) if isinstance(part, Finding)]
    known: dict[str, Any] = {name: None if isinstance(part, Finding) else part for name, part in parts.items()}
    pauses = findings_on_pauses(templates.values(), tasks)
    findings = [*unread, *examine(declared, **known), *findings_on_region(session, Needs.of(templates), read), *pauses]
    findings += plan.findings_on_plan(session, plan.Wanted.of(templates))
    settings, region = read_metadata(templates), session.region_name
    findings += keys.findings_on_keys(settings.get("keys", {}), templates, region, read)
    findings += images.findings_on_images(images.Wanted.of(templates), region, read)
    if (copy := restored.Wanted.of(settings, templates)) is not None:
        found = read("rds", "the restored copy", restored.PERMISSIONS, lambda c: restored.read_restored(c, copy))
        findings += [found] if isinstance(found, Finding) else restored.restored(copy, *found)
    if not isinstance(used, Finding):
        wanted, live = moves.UsedDatabase.of(settings), _live(known["database"])
        findings += moves.moves(wanted, used, prefix=declared.prefix, leaves=leaves, live=live)
    return sorted(findings, key=lambda finding: [*FindingKind].index(finding.kind))


def _live(database: DatabaseState | None) -> str:
    if database is None:
        return ""
    types = Counter[str]()
    for (type_, _), number in database.live.items():
        types[type_] += number
    shown = ", ".join(f"{number:,} of {type_}" for type_, number in types.most_common(TYPES_SHOWN))
    more = ", …" if len(types) > TYPES_SHOWN else ""
    text = f". {database.address}, of DATABASE_URL, has {types.total():,} live tasks"
    return f"{text}: {shown}{more}" if shown else text


# --- The checkout --------------------------------------------------------------------------------------------------


def synthesise(
    stage: str,
    folder: Path,
    *,
    deploys: bool = False,
    move: str | None = None,
    images: Mapping[str, str] | None = None,
) -> str:
    """Write the templates of ``stage`` into ``folder``, as ``cdk synth`` does. ``deploys``: for a deploy. ``move``: the
    time of a deploy that moves the stage to another database. ``images``: addresses that replace images of the
    stage, by their names.

    Return the text that the app prints: the concurrency of each lane, and settings that are still open.
    """
    project = Project.here()
    given = cdk_json(project)
    more = {"move": move} if move else {}
    more |= {f"{CONTEXT}{name}": address for name, address in (images or {}).items()}
    variables = {
        "CDK_CONTEXT_JSON": json.dumps({**given["context"], "stage": stage, "deploys": deploys} | more),
        "CDK_OUTDIR": str(folder.absolute()),
    }
    done = subprocess.run(  # noqa: S603 - the command of the user's own cdk.json
        app_command(given.get("app")),
        cwd=project.root,
        env={**os.environ, **variables},
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise LocalError(f"stage {stage!r} cannot be synthesised: {done.stderr.strip().removeprefix('joblane: ')}")
    return done.stderr.strip()


def read_templates(folder: Path) -> dict[str, Template]:
    """Return stack → template of the assembly in ``folder``, with nested stacks. Raises :class:`MisuseError`."""
    try:
        return read_assembly(folder)
    except FileNotFoundError:
        raise MisuseError(
            f"{folder} has no templates; leave --assembly out, and the command writes the templates itself"
        ) from None


def read_declared(templates: Mapping[str, Template], tasks: Iterable[Task[Any, Any]]) -> Declared:
    """Return the declared state. The metadata of the jobs stack's template contain settings of the stage."""
    settings, tasks = read_metadata(templates), list(tasks)
    queues = dict(_of_type(templates, "AWS::SQS::Queue"))
    mappings = [found for stack in stacks_of(templates) for found in mappings_of(whole(templates, stack))]
    functions = [properties for _, properties in _of_type(templates, "AWS::Lambda::Function")]
    return Declared(
        stage=settings["stage"],
        prefix=settings["prefix"],
        lanes={type_: [str(queue) for queue in task.lanes] for task in tasks for type_ in task.types},
        limits={type_: task.flow.names(task.type) for task in tasks if task.flow for type_ in task.types},
        keys={type_: task.flow.key for task in tasks if task.flow for type_ in task.types},
        queues={place: properties["QueueName"] for place, properties in queues.items()},
        demand=Demand(
            # a reservation is counted instead of the mappings
            slots=sum(found.max_concurrency or 0 for found in mappings if found.reserved is None),
            reserved=sum(properties.get("ReservedConcurrentExecutions") or 0 for properties in functions),
            budget=settings["concurrency_budget"],
            account=settings["account_concurrency"],
            lanes=sharing_lanes(settings["prefix"], tasks),
            throttled_hours=min(
                (
                    queue["RedrivePolicy"]["maxReceiveCount"] * queue["VisibilityTimeout"] / 3600
                    for queue in queues.values()
                    if "RedrivePolicy" in queue
                ),
                default=0,
            ),
        ),
        database_connections=settings["database_connections"],
        reserved_connections=settings["reserved_connections"],
        homes={type_: task.place for task in tasks if task.place for type_ in task.types},
    )


def read_metadata(templates: Mapping[str, Template]) -> Mapping[str, Any]:
    """Return the settings of the stage that the jobs stack's template contains."""
    if (settings := metadata(templates.values(), SETTINGS)) is None:
        raise LocalError(f"none of the templates contains jobs of Joblane: {', '.join(templates)}")
    return settings


def _of_type(templates: Mapping[str, Template], kind: str) -> Iterator[tuple[Place, Properties]]:
    for stack, template in templates.items():
        for logical_id, properties in of_type(template, kind):
            yield (stack, logical_id), properties


# --- AWS -----------------------------------------------------------------------------------------------------------


def _read(session: Session, service: Any, what: str, permission: str, reader: Callable[[Any], T]) -> T | Finding:
    """Return the result of ``reader``, or a finding if AWS denies the access.

    Raises :class:`LocalError` if AWS cannot be reached, or the credentials have expired.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    from joblane.inspector.remote import no_credentials

    try:
        with closing(session.client(service)) as client:
            return reader(client)
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        if "Expired" in code:
            raise UnavailableError(no_credentials(error)) from error
        if code not in DENIED:
            raise LocalError(f"{what} cannot be read from AWS: {error}") from error
        return unchecked(what, f"AWS answers {code}", f"allow {permission}")
    except BotoCoreError as error:
        raise LocalError(
            f"{what} cannot be read from AWS: {str(error).rstrip('.')}. Set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, and AWS_REGION, to those of the stage."
        ) from error


def deployed(client: CloudFormationClient, stacks: Iterable[str]) -> tuple[dict[Place, str], set[str]]:
    """Return the names of queues, by place, and of functions of the ``stacks`` that exist, with their nested stacks."""
    from botocore.exceptions import ClientError

    queues: dict[Place, str] = {}
    functions: set[str] = set()
    waiting = [(stack, stack) for stack in stacks if "/" not in stack]
    for stack, called in waiting:  # grows by the nested stacks
        try:
            pages = list(client.get_paginator("list_stack_resources").paginate(StackName=called))
        except ClientError as error:
            if "does not exist" in str(error):  # CloudFormation has no error code for this
                continue
            raise
        for item in (item for page in pages for item in page["StackResourceSummaries"]):
            logical_id, name = item["LogicalResourceId"], item.get("PhysicalResourceId", "")
            if item["ResourceStatus"] in GONE:
                continue
            if item["ResourceType"] == "AWS::SQS::Queue":
                queues[stack, logical_id] = name.rpartition("/")[2]  # the id is the queue's URL
            elif item["ResourceType"] == "AWS::Lambda::Function":
                functions.add(name)
            elif item["ResourceType"] == NESTED and name:
                waiting.append((f"{stack}/{logical_id}", name))
    return queues, functions


def messages_in_queues(client: SQSClient, prefix: str) -> dict[str, int]:
    """Return the number of messages waiting, delayed or in flight, in each queue with a name of the stage.

    The numbers are approximate. Source: GetQueueAttributes, SQS API reference.
    """
    pages = client.get_paginator("list_queues").paginate(
        QueueNamePrefix=f"{prefix}-", PaginationConfig={"PageSize": PAGE}
    )
    listed = {url.rpartition("/")[2]: url for page in pages for url in page.get("QueueUrls", [])}
    addresses = {
        name: url
        for name, url in listed.items()
        if name.startswith(prefix) and AFTER_THE_PREFIX.fullmatch(name, len(prefix))
    }

    def count(url: str) -> int:
        attributes = client.get_queue_attributes(QueueUrl=url, AttributeNames=list(ATTRIBUTES))["Attributes"]
        return sum(int(number) for number in attributes.values())

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return dict(zip(addresses, pool.map(count, addresses.values()), strict=True))


def account(client: LambdaClient, prefix: str, functions: Collection[str]) -> Account:
    """Return the account's quota and its other users. ``functions``: deployed functions of the stage.

    The names of queues and functions identify other stages. Other functions without a reservation have no limit that
    could be counted.
    """
    limits = client.get_account_settings()["AccountLimit"]
    reserved = limits["ConcurrentExecutions"] - limits["UnreservedConcurrentExecutions"]
    if reserved:  # without it no function has a reservation
        with ThreadPoolExecutor(AT_ONCE) as pool:
            own = pool.map(lambda name: client.get_function_concurrency(FunctionName=name), sorted(functions))
            reserved -= sum(found.get("ReservedConcurrentExecutions", 0) for found in own)
    others: dict[str, int] = defaultdict(int)
    for page in client.get_paginator("list_event_source_mappings").paginate():
        for mapping in page["EventSourceMappings"]:
            queue = mapping.get("EventSourceArn", "").rpartition(":")[2]
            function = mapping.get("FunctionArn", "").partition(":function:")[2]
            owner = _prefix_of(queue, function)
            if owner is not None and owner != prefix and function not in functions:
                others[owner] += mapping.get("ScalingConfig", {}).get("MaximumConcurrency", 0)
    return Account(limits["ConcurrentExecutions"], reserved, dict(others))


def _prefix_of(queue: str, function: str) -> str | None:
    """Return the prefix of the stage whose ``function`` consumes ``queue``, or None if they are of no stage.

    It is the longest prefix with which both names begin.
    """
    prefixes = [queue[: word.start()] for word in QUEUE_WORD.finditer(queue)]
    return next((prefix for prefix in reversed(prefixes) if function.startswith(f"{prefix}-")), None)


# --- The database --------------------------------------------------------------------------------------------------


def read_database(url: str, prefix: str, wanted: Wanted | None = None) -> DatabaseState | Finding:
    """Return the state of the database at ``url``, or a finding if it is unavailable or of another stage."""
    from pg8000.exceptions import Error as PostgresError

    from joblane.errors import ForeignSchemaError, WrongStageError, text_of
    from joblane.record.driver.database import Database

    if not url:
        return unchecked(
            "DATABASE_URL",
            "it is not set: live tasks, migrations and the server's connections were not checked",
            "set it to the stage's database and run this where it can be reached: through a tunnel or from a host in "
            "its network",
        )
    where = urlsplit(url)
    address = f"{where.hostname}:{where.port or 5432}{where.path}"
    try:
        with Database(url, prefix=prefix) as database:
            return _read_database(database.get(), address, wanted)
    except ForeignSchemaError as error:
        return refused("DATABASE_URL", f"{address}: {error.found}", error.do)
    except WrongStageError as error:
        do = "point DATABASE_URL at the database of this stage, or give the stage a database of its own"
        return refused("DATABASE_URL", f"{address}: {error}", do)
    except (PostgresError, OSError, ValueError) as error:
        return refused(
            "DATABASE_URL",
            f"{address} cannot be read: {text_of(error)}",
            "write postgresql://user:password@host:port/database of the stage, with the host as it is reached from "
            "here; or unset it to leave the database out",
        )


def _read_database(connection: Connection, address: str, wanted: Wanted | None) -> DatabaseState:
    from joblane.record import migrations
    from joblane.record.migrations.catalogue import Severity, differences

    revision = migrations.checked_revision(connection)

    def rows(table: str, query: str) -> list[Any]:
        exists = connection.run("select to_regclass($1) is not null", table) == [[True]]
        return connection.run(query) if exists else []

    ((max_connections, kept),) = connection.run(CONNECTIONS)
    found = connection.run(READ_ROLES, wanted.user, wanted.role) if wanted else []
    return DatabaseState(
        address=address,
        revision=revision,
        pending=migrations.pending(revision),
        newer=migrations.is_newer(revision),
        live={(type_, queue): count for type_, queue, count in rows("joblane.tasks", LIVE)},
        limited={(type_, tuple(names)): count for type_, names, count in rows("joblane.limits", LIMITED)},
        keys={type_: tuple(key) for type_, key in rows("joblane.task_types", KEYS)},
        types=[type_ for (type_,) in rows("joblane.task_types", "select type from joblane.task_types")],
        max_connections=max_connections,
        kept_connections=kept,
        roles=[*roles(wanted, Roles(*found[0]) if found else None)] if wanted else [],
        changes=[
            (refused if each.is_refused else note)(each.what, each.found, each.do)
            for each in (differences(connection) if revision == migrations.newest() else ())
            if each.severity is not Severity.NOTE
        ],
    )
