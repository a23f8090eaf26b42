"""Rules on the KMS keys of a stage, on plain data, and their readers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from joblane.cdk.key_policy import missing, services_of
from joblane.cdk.preflight.findings import Finding, FindingKind, note, refused
from joblane.cdk.preflight.moves import stack_of
from joblane.cdk.preflight.region import Read, existing
from joblane.cdk.settings.keys import region_of
from joblane.cdk.templates import Template

if TYPE_CHECKING:
    from mypy_boto3_cloudformation import CloudFormationClient

KEYS_OUTPUT = "KmsKeys"
"""Output of the jobs stack: the key of the stage, or ``none``, and its other keys."""
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
    compared = f"the deployed stage has {deployed.key or 'no key'}, and cdk.json {wanted.key or 'no key'}"
    if deployed.key and deployed.key not in wanted.all:
        yield refused(
            STAGE_KEY,
            f"{compared}: functions could no longer read messages, dead letters and objects that are encrypted with "
            f"{deployed.key}",
            f'write "other_kms_keys": ["{deployed.key}"], and leave it there until the last of them is gone: 14 days '
            f"for messages and dead letters, and the time for which your buckets keep objects; {HOW}",
        )
    if wanted.key and wanted.key not in deployed.all:
        kept = f' and "kms_key": "{deployed.key}"' if deployed.key else " and no kms_key"
        yield refused(
            STAGE_KEY,
            f"{compared}, which the deployed roles may not use yet. A queue could get the key before its senders get "
            "the permission, and the ticks of schedules would be lost meanwhile",
            f'deploy first with "other_kms_keys": ["{wanted.key}"]{kept}; then with the new kms_key; {HOW}',
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
        yield refused(name, f"KMS knows no key {arn}, or not for this account", do)
        return
    wrong = [f"{each} {found.get(each)}" for each, right in RIGHT.items() if found.get(each) != right]
    if wrong:
        needed = " and ".join(f"{each} {right}" for each, right in RIGHT.items() if found.get(each) != right)
        yield refused(name, f"{arn} has {' and '.join(wrong)}, and {needed} is needed", do)


def policy(name: str, arn: str, services: list[str], region: str, found: Mapping[str, Any]) -> Iterator[Finding]:
    """Note the principals that the policy of the key leaves out, without a look at its conditions."""
    if lacking := [*missing(found, services, region)]:
        yield note(
            name,
            f"the policy of {arn} does not allow all that {', '.join(lacking)} need, as far as it can be compared. "
            "Without CloudWatch Logs the deploy fails; without the others alarms and refused events are lost",
            "add the statements of docs/how-to/own-keys.md",
        )


def read_deployed(client: CloudFormationClient, prefix: str) -> UsedKeys | None:
    """Return the keys of the deployed stage, by the outputs of its jobs stack; None: it is not deployed."""
    jobs = stack_of(client, f"{prefix}-jobs")
    if jobs is None:
        return None
    outputs = {each["OutputKey"]: each["OutputValue"] for each in jobs.get("Outputs", ())}
    return UsedKeys.of_text(outputs.get(KEYS_OUTPUT, ""))


def findings_on_keys(
    keys: Mapping[str, str], templates: Mapping[str, Template], prefix: str, region: str, read: Read
) -> Iterator[Finding]:
    """Return the findings on ``keys``, by the names of their settings, and on their change."""
    deployed = read("cloudformation", WHAT, PERMISSION, lambda client: read_deployed(client, prefix))
    yield from (deployed,) if isinstance(deployed, Finding) else changes(UsedKeys.of(keys), deployed)
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
                yield Finding(FindingKind.NOTE, found.what, found.why, f"{found.do}, or compare it by hand; {HOW}")
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
