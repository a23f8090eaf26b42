"""The rules by which a deploy is not taken back, on templates. Each has a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joblane.cdk.templates import MIGRATION, SETTINGS, Template, metadata, name_of, of_type, stacks_of
from joblane.cdk.way_back.deployed import Deployed

OF_DATABASE = ("Database", "Functions", "User", "Restored")
"""Properties of the migration that say which database it migrates, and for which user."""
DATABASES = ("AWS::RDS::", "AWS::DocDB::", "AWS::Neptune::")
HOLDS_DATA = (
    "AWS::S3::Bucket",
    "AWS::DynamoDB::Table",
    "AWS::DynamoDB::GlobalTable",
    "AWS::EFS::FileSystem",
    "AWS::KMS::Key",
    "AWS::SecretsManager::Secret",
    "AWS::Cognito::UserPool",
)
"""Types of resources that the way back would delete, or create without their content."""
MOST = 3
"""Names in a sentence."""

Templates = Mapping[str, Template]


def reasons_to_stay(deployed: Deployed, after: Templates) -> list[str]:
    """Return why a deploy of the templates ``after`` is not taken back; empty: it can be.

    The old code runs on the newer schema, which the deploy of that code has not been tried with. So a deploy is taken
    back only if it left the schema as it was, but for the functions of the library, whose last two versions are kept.
    """
    return [
        *(f"the stack {stack} is new: there is no earlier template" for stack in deployed.missing if "/" not in stack),
        *_queues(deployed.templates, after),
        *_schema(deployed.templates, after),
        *_limits(deployed.templates, after),
        *_keys(deployed.templates, after),
        *_database(deployed.templates, after),
        *_data(deployed.templates, after),
        *_characters(deployed.unreadable),
    ]


def _queues(before: Templates, after: Templates) -> Iterator[str]:
    old, new = _names(before, "AWS::SQS::Queue", "QueueName"), _names(after, "AWS::SQS::Queue", "QueueName")
    if gone := sorted(old - new):
        yield f"it dropped a task type or a lane ({_some(gone)}): CloudFormation cannot give its tasks back"
    if added := sorted(new - old):
        yield f"it added a task type or a lane ({_some(added)}), whose tasks the earlier code would lose"


def _schema(before: Templates, after: Templates) -> Iterator[str]:
    old, new = ((metadata(each.values(), SETTINGS) or {}).get("schema") for each in (before, after))
    if old is None:
        yield "the earlier templates do not name the schema of their code: an older version of Joblane deployed them"
    elif new is not None:
        if old["revision"] != new["revision"]:
            yield f"it migrated the schema from {old['revision']} to {new['revision']}"
        if old["own"] != new["own"]:
            yield "it changed the project's own migrations"


def _limits(before: Templates, after: Templates) -> Iterator[str]:
    old, new = (_setting(each, "limits") for each in (before, after))
    if changed := sorted(type_ for type_ in {*old, *new} if old.get(type_) != new.get(type_)):
        yield f"it changed the names or the key of limits ({_some(changed)}): the earlier code would count other tasks"


def _keys(before: Templates, after: Templates) -> Iterator[str]:
    old, new = (_setting(each, "keys") for each in (before, after))
    if unreadable := sorted(name for name, arn in new.items() if arn not in old.values()):
        yield f"it added a KMS key ({_some(unreadable)}): the earlier functions cannot read what it encrypted"


def _database(before: Templates, after: Templates) -> Iterator[str]:
    old, new = _resources(before, DATABASES), _resources(after, DATABASES)
    if changed := sorted(name for name in {*old, *new} if old.get(name) != new.get(name)):
        yield f"it changed the database ({_some(changed)})"
    was, now = ({key: found.get(key) for key in OF_DATABASE} for found in map(migration_of, (before, after)))
    if settings := [key for key in OF_DATABASE if was[key] != now[key]]:
        yield f"it changed the settings of the database ({_some(settings)} of the migration)"


def _data(before: Templates, after: Templates) -> Iterator[str]:
    old, new = _resources(before, HOLDS_DATA), _resources(after, HOLDS_DATA)
    if changed := sorted({*old} ^ {*new}):
        yield f"it added or removed resources that hold data ({_some(changed)})"
    kept = ({*_resources(each)} - {*_resources(each, deleted=True)} for each in (before, after))
    if left := sorted(set.symmetric_difference(*kept) - {*changed}):
        yield f"it added or removed resources that CloudFormation keeps, so that it cannot create them ({_some(left)})"


def _characters(unreadable: Sequence[str]) -> Iterator[str]:
    if unreadable:
        yield (
            "CloudFormation does not return the earlier templates as they were "
            f"({_some(unreadable)}): each character that is not ASCII is a ?"
        )


def _setting(templates: Templates, name: str) -> dict[str, Any]:
    return (metadata(templates.values(), SETTINGS) or {}).get(name) or {}


def _names(templates: Templates, kind: str, key: str) -> set[str]:
    return {
        name_of(properties, key, logical_id)
        for template in templates.values()
        for logical_id, properties in of_type(template, kind)
    }


def _resources(templates: Templates, kinds: tuple[str, ...] = ("",), *, deleted: bool = False) -> dict[str, Any]:
    """Return type and properties of the resources of the kinds, by ``STACK/LOGICAL_ID``.

    ``deleted``: only those that CloudFormation deletes when they are removed.
    """
    return {
        f"{stack}/{logical_id}": [resource["Type"], resource.get("Properties")]
        for stack, template in templates.items()
        for logical_id, resource in template.get("Resources", {}).items()
        if resource["Type"].startswith(kinds)
        if not deleted or resource.get("DeletionPolicy", "Delete") == "Delete"
    }


def migration_of(templates: Templates) -> Mapping[str, Any]:
    """Return the properties of the migration; empty: there is none."""
    found = (each for stack in stacks_of(templates) for _, each in of_type(templates[stack], MIGRATION))
    return next(found, {})


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST} more" if len(names) > MOST else ""
    return f"{', '.join(names[:MOST])}{more}"
