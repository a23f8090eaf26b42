"""Rules on the KMS keys of a stage, on plain data, and their readers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.cdk.key_policy import missing, services_of
from joblane.cdk.preflight.findings import Finding, FindingKind, note, refused, unchecked
from joblane.cdk.preflight.moves import stack_of
from joblane.cdk.preflight.region import Read, existing
from joblane.cdk.settings.keys import account_of, region_of
from joblane.cdk.templates import MIGRATION, Template

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

MIGRATION_OUTPUT, KEYS_OUTPUT = "MigrationResource", "KmsKeys"
"""Outputs of the stack with the jobs: logical id of the migration's resource, in each stage; the key of the stage, or
``none``, and its other keys. In a CDK app of your own their names have the path of the construct, too."""
NO_KEY = "none"
HOW = "docs/how-to/own-keys.md has the steps"
WHAT, PERMISSION = "the KMS keys of the deployed stage", "cloudformation:DescribeStacks"
RIGHT = {"KeyManager": "CUSTOMER", "KeySpec": "SYMMETRIC_DEFAULT", "KeyUsage": "ENCRYPT_DECRYPT", "KeyState": "Enabled"}
"""Properties of a key that services can use. Source: DescribeKey, KMS API reference."""
STAGE_KEY = "kms_key"


@dataclass(frozen=True)
class UsedKeys:
    """``key``: of the stage; None: keys of the services. ``others``: keys that its roles may use, too."""

    key: str | None = None
    others: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        return (*([self.key] if self.key else []), *self.others)

    @property
    def text(self) -> str:
        """The value of the output. Empty: the stage has no keys."""
        return " ".join([self.key or NO_KEY, *self.others]) if self.all else ""

    @classmethod
    def of(cls, keys: Mapping[str, str]) -> UsedKeys:
        """``keys``: ARNs by the names of their settings, as the metadata of the template has them."""
        return cls(keys.get(STAGE_KEY), tuple(arn for name, arn in keys.items() if name.startswith("other_kms_keys")))

    @classmethod
    def of_text(cls, text: str) -> UsedKeys:
        key, *others = text.split() or [NO_KEY]
        return cls(None if key == NO_KEY else key, tuple(others))


def changes(wanted: UsedKeys, deployed: UsedKeys | None) -> Iterator[Finding]:
    """Find a change of keys in which functions could not read or send. ``deployed`` None: the stage is not deployed.

    A message stays encrypted with the key with which it was sent. Source: SQS, *Encryption at rest*. CloudFormation
    updates the queues and the roles of a stage in any order.
    """
    if deployed is None:
        return
    compared = f"the deployed stage has {deployed.key or 'no key'}, and the new templates {wanted.key or 'no key'}"
    if wanted.key and wanted.key not in deployed.all:
        kept = f' and "kms_key": "{deployed.key}"' if deployed.key else " and no kms_key"
        former = f', and "{deployed.key}" in other_kms_keys' if deployed.key else ""
        others = [arn for arn in wanted.all if arn != deployed.key]
        yield refused(
            STAGE_KEY,
            f"{compared}, which the deployed roles may not use yet. A queue could get the key before its senders get "
            "the permission, and the ticks of schedules would be lost meanwhile",
            f'deploy first with "other_kms_keys": {json.dumps(others)}{kept}; then with the new kms_key{former}; {HOW}',
        )
    elif deployed.key and deployed.key not in wanted.all:
        others = [*wanted.others, deployed.key]
        yield refused(
            STAGE_KEY,
            f"{compared}: functions could no longer read messages, dead letters and objects that are encrypted with "
            f"{deployed.key}",
            f'write "other_kms_keys": {json.dumps(others)}, and leave "{deployed.key}" there until the last of them is '
            f"gone: 14 days for messages and dead letters, and the time for which your buckets keep objects; {HOW}",
        )
    for arn in deployed.others:
        if arn not in wanted.all:
            yield note(
                "other_kms_keys",
                f"functions may no longer use {arn}: messages, dead letters and objects that are encrypted with it "
                "cannot be read any more",
                "leave it there if there may be some; docs/how-to/own-keys.md says how long",
            )


def key(name: str, arn: str, found: Mapping[str, Any] | None) -> Iterator[Finding]:
    """Find a key that is missing, or that services cannot use. ``found``: its metadata."""
    do = "write the ARN of a symmetric key that is enabled, and that you manage: aws kms list-keys"
    if found is None:
        if name.startswith("other_kms_keys"):
            do = "compare the ARN; if KMS has deleted the key, nothing can read what it encrypted: leave the key out"
        yield refused(name, f"KMS knows no key {arn}, or not for this account", do)
        return
    if {each: found.get(each) for each in RIGHT} == {**RIGHT, "KeyState": (state := found.get("KeyState"))}:
        do = _recovery(arn, str(state))
    wrong = [f"{each} {found.get(each)}" for each, right in RIGHT.items() if found.get(each) != right]
    if wrong:
        needed = " and ".join(f"{each} {right}" for each, right in RIGHT.items() if found.get(each) != right)
        yield refused(name, f"{arn} has {' and '.join(wrong)}, and {needed} is needed", do)


def _recovery(arn: str, state: str) -> str:
    """Return how a key with this state can be used again.

    Source: KMS API reference: *CancelKeyDeletion*, after which the key is disabled, and *EnableKey*; both work in the
    account of the key only.
    """
    enable = f"aws kms enable-key --key-id {arn}"
    match state:
        case "PendingDeletion":
            return f"in the account of the key: aws kms cancel-key-deletion --key-id {arn}; then {enable}"
        case "Disabled":
            return f"in the account of the key: {enable}"
    return f"deploy when aws kms describe-key --key-id {arn} shows Enabled; an imported key needs its key material"


def policy(name: str, arn: str, services: list[str], region: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Note the principals that the policy of the key leaves out, without a look at its conditions."""
    if lacking := [*missing(found, services, region, account_of(arn))]:
        yield note(
            name,
            f"the policy of {arn} does not allow all that {', '.join(lacking)} need, as far as it can be compared. "
            "Without CloudWatch Logs the deploy fails; without the others alarms and refused events are lost",
            "add the statements of docs/how-to/own-keys.md",
        )


def keys_output(migration: str) -> str:
    """Return the name of the output with the keys, from the name of the output with the migration's resource."""
    return migration.replace(MIGRATION_OUTPUT, KEYS_OUTPUT)


def jobs_of(templates: Mapping[str, Template]) -> tuple[str, str] | None:
    """Return the stack with the jobs, and the name of its output with the migration's resource. None: the stack is
    nested, so the template does not have its name, or there is no such output."""
    for stack, template in templates.items():
        for name, output in template.get("Outputs", {}).items():
            value = output["Value"]
            resource = template.get("Resources", {}).get(value, {}) if isinstance(value, str) else {}
            if resource.get("Type") == MIGRATION and "/" not in stack:
                return stack, name
    return None


def read_deployed(client: CloudFormationClient, stack: str, migration: str) -> UsedKeys | None:
    """Return the keys of the deployed stage, by the outputs of ``stack``; None: it is not deployed.

    A stack of an application may exist before it has jobs, so the output ``migration`` decides.
    """
    jobs = stack_of(client, stack) or {}
    outputs = {each["OutputKey"]: each["OutputValue"] for each in jobs.get("Outputs", ())}
    return UsedKeys.of_text(outputs.get(keys_output(migration), "")) if migration in outputs else None


def findings_on_keys(
    keys: Mapping[str, str], templates: Mapping[str, Template], region: str, read: Read
) -> Iterator[Finding]:
    """Return the findings on ``keys``, by the names of their settings, and on their change."""
    if (jobs := jobs_of(templates)) is not None:
        deployed = read("cloudformation", WHAT, PERMISSION, lambda client: read_deployed(client, *jobs))
        yield from (deployed,) if isinstance(deployed, Finding) else changes(UsedKeys.of(keys), deployed)
    elif keys:
        yield unchecked(
            WHAT,
            "the templates do not name the stack with the jobs: it is a nested stack, or its outputs were removed",
            f"compare them by hand before you change kms_key or other_kms_keys; {HOW}",
        )
    for name, arn in keys.items():
        if region_of(arn) != region:
            yield refused(name, f"the key is in {region_of(arn)}, and the stage in {region}", f"use a key of {region}")
            continue
        described = read("kms", f"the key of {name}", "kms:DescribeKey", partial(_describe, arn))
        wrong = [described] if isinstance(described, Finding) else [*key(name, arn, described)]
        yield from wrong
        if name == STAGE_KEY and not wrong:
            found = read("kms", f"the policy of {name}", "kms:GetKeyPolicy", partial(_policy, arn))
            if isinstance(found, Finding):  # the policy is not needed for a deploy
                do = f"{found.do}, or compare it by hand, as the policy of a key in another account; {HOW}"
                yield Finding(FindingKind.NOTE, found.what, found.why, do)
            elif found is None:
                yield note(
                    f"the policy of {name}", "KMS does not show it to this account", f"compare it by hand; {HOW}"
                )
            else:
                yield from policy(name, arn, services_of(templates.values()), region, found)


def _describe(arn: str, client: Any) -> Mapping[str, Any] | None:
    found = existing("describe_key", "NotFoundException", client, KeyId=arn)
    return None if found is None else found["KeyMetadata"]


def _policy(arn: str, client: Any) -> Mapping[str, Any] | None:
    """Return the policy of a key. None: the key is in another account.

    Source: GetKeyPolicy, KMS API reference: ``default`` is the only name, and no account reads another's policy.
    """
    found = existing("get_key_policy", "NotFoundException", client, KeyId=arn, PolicyName="default")
    policy: Mapping[str, Any] | None = None if found is None else json.loads(found["Policy"])
    return policy
