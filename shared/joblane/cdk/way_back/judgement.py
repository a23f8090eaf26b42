"""The rules by which a deploy is not reverted, on templates. Each has a sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from joblane.cdk.templates import (
    MIGRATION,
    NESTED,
    SETTINGS,
    Template,
    metadata,
    name_of,
    of_type,
    stacks_of,
    variables,
)
from joblane.cdk.way_back.deployed import Deployed
from joblane.names import PLACES, Queue, own_lane_name, types_in

OF_DATABASE = ("Database", "Functions", "User", "Restored")
"""Properties of the migration that say which database it migrates, and for which user."""
DATABASES = ("AWS::RDS::", "AWS::DocDB::", "AWS::Neptune::")
STATELESS = {
    "Custom::Migration",
    "AWS::CDK::Metadata",
    *(f"AWS::ApiGateway::{each}" for each in ("Authorizer", "Deployment", "GatewayResponse", "Method", "Model")),
    *(f"AWS::ApiGateway::{each}" for each in ("RequestValidator", "Resource", "Stage")),
    *(f"AWS::ApiGatewayV2::{each}" for each in ("Authorizer", "Deployment", "Integration", "Route", "Stage")),
    *(f"AWS::CloudWatch::{each}" for each in ("Alarm", "CompositeAlarm", "Dashboard")),
    *(f"AWS::EC2::SecurityGroup{each}" for each in ("Egress", "Ingress")),
    *(f"AWS::Events::{each}" for each in ("ApiDestination", "EventBusPolicy", "Rule")),
    *(f"AWS::IAM::{each}" for each in ("ManagedPolicy", "Policy", "Role", "RolePolicy")),
    *(f"AWS::Lambda::{each}" for each in ("Alias", "EventInvokeConfig", "EventSourceMapping", "Function")),
    *(f"AWS::Lambda::{each}" for each in ("LayerVersion", "LayerVersionPermission", "Permission", "Version")),
    *(f"AWS::Logs::{each}" for each in ("MetricFilter", "QueryDefinition", "SubscriptionFilter")),
    "AWS::S3::BucketPolicy",
    *(f"AWS::Scheduler::{each}" for each in ("Schedule", "ScheduleGroup")),
    "AWS::SNS::TopicPolicy",
    "AWS::SQS::QueuePolicy",
}
"""Types of resources that the way back may create, change and delete, because they hold no data.

The migration has rules of its own.
"""
QUEUE = "AWS::SQS::Queue"
IN_PLACE: Mapping[str, set[str]] = {
    QUEUE: {"VisibilityTimeout", "Tags"},
    "AWS::ApiGatewayV2::Api": {"CorsConfiguration", "Description", "Tags"},
    "AWS::EC2::SecurityGroup": {"SecurityGroupEgress", "SecurityGroupIngress", "Tags"},
    "AWS::Logs::LogGroup": {"RetentionInDays", "Tags"},
}
"""Type → properties that the way back may change. A change does not replace the resource.
Source: CloudFormation, *Update requires: No interruption* of each."""
MOST = 3
"""Names in a sentence."""

Templates = Mapping[str, Template]
Resource = tuple[str, Mapping[str, Any]]
"""Type and properties."""


def reasons_to_stay(deployed: Deployed, after: Templates) -> list[str]:
    """Return why a deploy of the templates ``after`` is not reverted; empty: it can be.

    After a revert the old code runs on the newer schema, with which its deploy was never tried. So a deploy is reverted
    only if it left the schema as it was, but for the functions of the library, whose last two versions are kept.
    """
    return [
        *(f"the stack {stack} is new: there is no earlier template" for stack in deployed.missing if "/" not in stack),
        *(
            f"the stack {stack} is in {region}, which --watch does not read"
            for stack, region in deployed.elsewhere.items()
        ),
        *_failed(deployed.statuses),
        *_queues(deployed.templates, after),
        *_schema(deployed.templates, after),
        *_limits(deployed.templates, after),
        *_keys(deployed.templates, after),
        *_database(deployed.templates, after),
        *_data(deployed.templates, after),
        *_characters(deployed.unreadable),
    ]


def _failed(statuses: Mapping[str, str]) -> Iterator[str]:
    for stack, status in statuses.items():
        if "ROLLBACK" in status:
            yield f"the stack {stack} is {status}: others may have templates of the deploy that failed there"


def _queues(before: Templates, after: Templates) -> Iterator[str]:
    old, new = (_names(each, QUEUE, "QueueName") for each in (before, after))
    was, now = map(_types_on_places, (before, after))
    prefix = (metadata(after.values(), SETTINGS) or {}).get("prefix", "")
    if gone := sorted(old - new) + _without_lane(was - now, new, prefix):
        yield f"it dropped a task type or a lane ({_some(gone)}): CloudFormation cannot give its tasks back"
    if added := sorted(new - old) + _without_lane(now - was, old, prefix):
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
    old, new = _resources(before), _resources(after)
    kept = ({*_resources(each)} - {*_resources(each, deleted=True)} for each in (before, after))
    left = sorted(set.union(*kept) & ({*old} ^ {*new}))
    others = {*old, *new} - {*left}
    if changed := sorted(name for name in others if not _may_differ(old.get(name), new.get(name))):
        yield f"it added, removed or changed resources that may not come back as they were ({_some(changed)})"
    if left:
        yield f"it added or removed resources that CloudFormation keeps, so that it cannot create them ({_some(left)})"


def _may_differ(old: Resource | None, new: Resource | None) -> bool:
    """Return whether the way back from ``new`` to ``old`` loses nothing; None: the template has no such resource."""
    kinds = {each[0] for each in (old, new) if each}
    if old == new or kinds <= STATELESS or all(kind.startswith(DATABASES) for kind in kinds):
        return True
    if old is None or new is None:
        return kinds in ({QUEUE}, {NESTED})  # a queue has a rule of its own, as databases; a nested stack has resources
    if kinds == {NESTED}:
        was, now = (each[1].get("Parameters", {}) for each in (old, new))
        return all(was[name] == now[name] for name in was.keys() & now.keys())
    return kinds <= IN_PLACE.keys() and _fixed(old) == _fixed(new)


def _fixed(resource: Resource) -> dict[str, Any]:
    """Return type and properties of the resource, without those that may differ."""
    kind, properties = resource
    found = {name: each for name, each in properties.items() if name not in IN_PLACE[kind]}
    if kind == QUEUE:
        found["RedrivePolicy"] = {**properties.get("RedrivePolicy", {}), "maxReceiveCount": None}
    return {"Type": kind, **found}


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


def _types_on_places(templates: Templates) -> set[str]:
    """Return the types that share the lanes of a place."""
    functions = (each for template in templates.values() for _, each in of_type(template, "AWS::Lambda::Function"))
    return {type_ for text in {variables(each).get(PLACES, "") for each in functions} for type_ in types_in(text)}


def _without_lane(types: set[str], lanes: set[str], prefix: str) -> list[str]:
    """Return the ``types`` that have no lane of their own in ``lanes``."""
    return sorted(each for each in types if lanes.isdisjoint(own_lane_name(prefix, queue, each) for queue in Queue))


def _resources(templates: Templates, kinds: tuple[str, ...] = ("",), *, deleted: bool = False) -> dict[str, Resource]:
    """Return type and properties of the resources of the kinds, by ``STACK/LOGICAL_ID``.

    ``deleted``: only those that CloudFormation deletes when they are removed.
    """
    return {
        f"{stack}/{logical_id}": (resource["Type"], resource.get("Properties") or {})
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
