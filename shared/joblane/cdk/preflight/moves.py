"""Rules on a deploy that would move the stage to another database, on plain data, and their reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joblane.cdk.preflight.findings import Finding, note, refused

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

RESTORED_OUTPUT = "RestoredDatabase"
"""Output of the jobs stack: resource id of the restored copy that the stage uses."""
DATABASE_KEY = "database.kms_key"
DATABASE_KEY_OUTPUT = "DatabaseKmsKey"
"""Output of the data stack: ARN of the database's own KMS key."""
GONE = ("DELETE_COMPLETE", "DELETE_SKIPPED")
NO_STACK = ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "DELETE_COMPLETE")
"""Statuses of a stack that has no resources. Source: CloudFormation, *Stack status codes*."""
OWN: Mapping[str, tuple[str, str]] = {
    "aurora": ("AWS::RDS::DBCluster", "DatabaseCluster"),
    "rds": ("AWS::RDS::DBInstance", "DatabaseInstance"),
}
"""Kind of a stage's own database → type of its resource in the data stack, and the start of its logical id."""
OF_OTHERS = {"existing", "given", "local"}
"""Kinds without a resource of the stage. ``given``: by a CDK app. ``local``: of this machine."""
PERMISSIONS = "cloudformation:ListStackResources and cloudformation:DescribeStacks"
WHAT = "the database of the deployed stage"
USES = "the stage uses "


@dataclass(frozen=True)
class UsedDatabase:
    """``kind``: of the settings. ``restored``: resource id of the copy in use; None: none. ``key``: ARN of the KMS key
    with which the stage's own database was created; None: the key of RDS."""

    kind: str
    restored: str | None
    key: str | None = None

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> UsedDatabase:
        """Return the database of the checkout. ``settings``: the metadata of its jobs stack."""
        key = settings.get("keys", {}).get(DATABASE_KEY)
        return cls(settings.get("database", "given"), settings.get("restored"), key)


def moves(
    wanted: UsedDatabase, deployed: UsedDatabase | None, *, prefix: str, leaves: str | None, live: str
) -> Iterator[Finding]:
    """Find a move to another database. ``deployed`` None: the stage is not deployed.

    ``leaves``: resource id of the copy that the operator has confirmed to leave. ``live``: a sentence on the tasks in
    the database of ``DATABASE_URL``, or an empty string.
    """
    if deployed is None:
        return
    if wanted.kind != deployed.kind and {wanted.kind, deployed.kind} - OF_OTHERS:
        yield refused(
            "database.kind",
            f"it is {deployed.kind} in the deployed stage, by the resources of {prefix}-data, and {wanted.kind} in "
            f"cdk.json: {_loss(wanted.kind, deployed.kind)}",
            f'write "kind": "{deployed.kind}" again; to move, create a stage with another prefix and drain this one; '
            "docs/how-to/change-safely.md describes how",
        )
        return
    if wanted.key != deployed.key:
        yield refused(
            DATABASE_KEY,
            f"the database of the deployed stage has {deployed.key or 'the key of RDS'}, by the outputs of "
            f"{prefix}-data, and {wanted.key or 'no key'} is in cdk.json: {_loss(wanted.kind, deployed.kind)}",
            f"{_write(deployed.key)}; AWS cannot change the key of a database: to move, restore a copy with another "
            "key, docs/how-to/own-keys.md describes how",
        )
    if wanted.restored == deployed.restored:
        return
    own = f"its own database {prefix}-database"
    before, after = (f"the restored copy {each}" if each else own for each in (deployed.restored, wanted.restored))
    why = (
        f"{USES}{before}, and would use {after}. Tasks that were enqueued or ended in {before} since the two "
        f"parted are there only: in {after} they are missing, or run again{live}"
    )
    pauses = "the deploy pauses every queue in the other database before a function reads it; `joblane resume` ends it"
    if deployed.restored and leaves != deployed.restored:
        yield refused(
            "database.restored",
            why,
            f"if you want that, confirm it: --leave {deployed.restored} (with make: LEAVE={deployed.restored}); "
            f"{pauses}",
        )
    else:
        yield note("database.restored", why, f"{pauses}; docs/how-to/restore.md has the steps")


def is_move(findings: Iterable[Finding]) -> bool:
    """True if the findings of :func:`moves` say that the stage moves to a restored copy, or leaves it."""
    return any(each.what == "database.restored" and each.why.startswith(USES) for each in findings)


def _write(key: str | None) -> str:
    return f'write "kms_key": "{key}" into database again' if key else "leave kms_key of database out"


def _loss(wanted: str, deployed: str) -> str:
    if deployed == "existing":
        return f"the new {wanted} database would be empty, and all tasks would stay in the old one"
    if wanted in OF_OTHERS:
        return f"CloudFormation would delete the {deployed} database with its tasks, or fail to"
    return f"CloudFormation would replace the {deployed} database by an empty one"


def read_deployed(client: CloudFormationClient, prefix: str) -> UsedDatabase | None:
    """Return the database of the deployed stage, by the resources of its data stack; None: it is not deployed."""
    jobs = stack_of(client, f"{prefix}-jobs")
    kind = next(_own_kinds(client, f"{prefix}-data"), None)
    if kind is None and jobs is None:
        return None
    data = stack_of(client, f"{prefix}-data") if kind else None
    return UsedDatabase(
        kind or "existing", _outputs(jobs).get(RESTORED_OUTPUT), _outputs(data).get(DATABASE_KEY_OUTPUT)
    )


def _outputs(stack: Mapping[str, Any] | None) -> dict[str, str]:
    return {each["OutputKey"]: each["OutputValue"] for each in (stack or {}).get("Outputs", ())}


def stack_of(client: CloudFormationClient, name: str) -> Mapping[str, Any] | None:
    """Return the stack as CloudFormation describes it; None: it is not deployed."""
    from botocore.exceptions import ClientError

    try:
        (found,) = client.describe_stacks(StackName=name)["Stacks"]
    except ClientError as error:
        if "does not exist" in str(error):  # CloudFormation has no error code for this
            return None
        raise
    return None if found["StackStatus"] in NO_STACK else found


def _own_kinds(client: CloudFormationClient, name: str) -> Iterator[str]:
    from botocore.exceptions import ClientError

    try:
        pages = list(client.get_paginator("list_stack_resources").paginate(StackName=name))
    except ClientError as error:
        if "does not exist" in str(error):
            return
        raise
    for item in (item for page in pages for item in page["StackResourceSummaries"]):
        for kind, (type_, start) in OWN.items():
            found = item["ResourceType"] == type_ and item["LogicalResourceId"].startswith(start)
            if found and item["ResourceStatus"] not in GONE:
                yield kind
