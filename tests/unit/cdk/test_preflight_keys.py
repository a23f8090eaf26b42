"""The preflight's rules on the KMS keys of a stage, and their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from joblane.cdk.key_policy import Place, missing, statements
from joblane.cdk.preflight.findings import Finding, FindingKind, unchecked
from joblane.cdk.preflight.keys import KEYS_OUTPUT, UsedKeys, changes, findings_on_keys, key, policy, read_deployed

OLD, NEW = (f"arn:aws:kms:eu-central-1:111122223333:key/{id_ * 8}-12ab-34cd-56ef-1234567890ab" for id_ in "ab")
NONE = UsedKeys()
META = {
    "KeyId": "a",
    "KeyManager": "CUSTOMER",
    "KeySpec": "SYMMETRIC_DEFAULT",
    "KeyUsage": "ENCRYPT_DECRYPT",
    "KeyState": "Enabled",
}
PLACE = Place("aws", "eu-central-1", "111122223333", "jobs")
SERVICES = ["budgets", "cloudwatch", "events", "logs"]
TEMPLATES: dict[str, Any] = {"jobs": {"Resources": {"Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {}}}}}


# --- Changes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deployed", "wanted"),
    [
        (None, UsedKeys(NEW)),  # a first deploy
        (NONE, NONE),
        (NONE, UsedKeys(None, (NEW,))),  # the two steps to a first key
        (UsedKeys(None, (NEW,)), UsedKeys(NEW)),
        (UsedKeys(OLD), UsedKeys(OLD, (NEW,))),  # to another key, and back
        (UsedKeys(OLD, (NEW,)), UsedKeys(NEW, (OLD,))),
        (UsedKeys(NEW, (OLD,)), UsedKeys(OLD, (NEW,))),
        (UsedKeys(OLD), UsedKeys(None, (OLD,))),  # to no key
    ],
)
def test_a_change_in_which_every_role_may_use_both_keys_has_no_finding(
    deployed: UsedKeys | None, wanted: UsedKeys
) -> None:
    assert list(changes(wanted, deployed)) == []


@pytest.mark.parametrize("wanted", [UsedKeys(NEW), NONE, UsedKeys(None, (NEW,))])
def test_a_key_that_leaves_while_messages_are_encrypted_with_it_is_refused(wanted: UsedKeys) -> None:
    (found, *_) = changes(wanted, UsedKeys(OLD, (NEW,)))
    assert (found.kind, found.what) == (FindingKind.REFUSED, "kms_key")
    assert found.why.startswith(f"the deployed stage has {OLD}, and cdk.json {wanted.key or 'no key'}: functions could")
    assert f'"other_kms_keys": ["{OLD}"]' in found.do


@pytest.mark.parametrize(
    ("deployed", "kept"), [(NONE, "and no kms_key"), (UsedKeys(OLD), f'and "kms_key": "{OLD}"')], ids=["first", "next"]
)
def test_a_key_that_the_deployed_roles_may_not_use_yet_is_refused(deployed: UsedKeys, kept: str) -> None:
    (found,) = changes(UsedKeys(NEW, deployed.all), deployed)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "kms_key")
    assert found.do.startswith(f'deploy first with "other_kms_keys": ["{NEW}"] {kept}; then with the new kms_key')


def test_a_former_key_that_leaves_is_a_note() -> None:
    (found,) = changes(UsedKeys(NEW), UsedKeys(NEW, (OLD,)))
    assert (found.kind, found.what) == (FindingKind.NOTE, "other_kms_keys")
    assert OLD in found.why


@pytest.mark.parametrize("keys", [NONE, UsedKeys(OLD), UsedKeys(OLD, (NEW,)), UsedKeys(None, (OLD, NEW))])
def test_the_output_of_the_stack_has_all_keys(keys: UsedKeys) -> None:
    assert UsedKeys.of_text(keys.text) == keys


# --- The key and its policy ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changed",
    [
        {"KeyState": "Disabled"},
        {"KeyState": "PendingDeletion"},
        {"KeySpec": "RSA_2048", "KeyUsage": "SIGN_VERIFY"},
        {"KeyManager": "AWS"},
    ],
)
def test_a_key_that_services_cannot_use_is_refused_with_what_is_needed(changed: dict[str, str]) -> None:
    assert list(key("kms_key", OLD, META)) == []
    (found,) = key("kms_key", OLD, META | changed)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "kms_key")
    for name, value in changed.items():
        assert f"{name} {value}" in found.why
        assert f"{name} {META[name]}" in found.why


def test_a_missing_key_is_refused() -> None:
    (found,) = key("database.kms_key", OLD, None)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "database.kms_key")
    assert OLD in found.why


def document(*left_out: str) -> dict[str, Any]:
    return {"Statement": [each for each in statements(PLACE, SERVICES) if each["Sid"] not in left_out]}


def test_the_policy_of_the_page_has_all_that_is_needed() -> None:
    assert list(missing(document(), SERVICES, "eu-central-1")) == []
    assert list(policy("kms_key", OLD, SERVICES, "eu-central-1", document())) == []


@pytest.mark.parametrize(
    ("left_out", "named"),
    [
        ("RolesOfTheAccount", "the account"),
        ("Logs", "logs.eu-central-1.amazonaws.com"),
        ("Cloudwatch", "cloudwatch.amazonaws.com"),
        ("Budgets", "budgets.amazonaws.com"),
        ("Events", "events.amazonaws.com"),
    ],
)
def test_each_statement_that_is_missing_is_noted(left_out: str, named: str) -> None:
    (found,) = policy("kms_key", OLD, SERVICES, "eu-central-1", document(left_out))
    assert found.kind is FindingKind.NOTE
    assert f"does not allow all that {named} need" in found.why


def service(**changed: Any) -> dict[str, Any]:
    allowed = {"Effect": "Allow", "Principal": {"Service": ["events.amazonaws.com"]}, "Action": "kms:*"}
    return {"Statement": [*document()["Statement"][:1], {**allowed, **changed}]}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (service(), []),
        (service(Principal="*"), []),
        (service(Principal={"Service": "events.amazonaws.com"}, Action=["kms:generatedatakey*", "kms:Decrypt"]), []),
        (service(Action="kms:Decrypt"), ["events.amazonaws.com"]),
        (service(Effect="Deny"), ["events.amazonaws.com"]),
        (service(Principal={"Service": "sns.amazonaws.com"}), ["events.amazonaws.com"]),
        ({}, ["the account", "events.amazonaws.com"]),
    ],
)
def test_a_policy_is_compared_however_it_is_written(found: dict[str, Any], expected: list[str]) -> None:
    assert list(missing(found, ["events"], "eu-central-1")) == expected


# --- Reading -------------------------------------------------------------------------------------------------------


class Answers:
    """Answers by the permission that a reader names: a value, or a finding as if AWS denied the access."""

    def __init__(self, **given: Any) -> None:
        self._given = {"DescribeStacks": None, "DescribeKey": META, "GetKeyPolicy": document(), **given}
        self.asked: list[str] = []

    def __call__(self, service: str, what: str, permission: str, reader: Callable[[Any], Any]) -> Any:
        name = permission.partition(":")[2]
        self.asked.append(name)
        return self._given[name]


def found(answers: Answers, **keys: str) -> list[Finding]:
    named = {name.replace("__", "."): arn for name, arn in keys.items()}
    return list(findings_on_keys(named, TEMPLATES, "jobs", "eu-central-1", answers))


def test_a_stage_without_keys_asks_for_none_and_still_finds_a_removed_key() -> None:
    answers = Answers(DescribeStacks=UsedKeys(OLD))
    (finding,) = found(answers)
    assert (finding.kind, answers.asked) == (FindingKind.REFUSED, ["DescribeStacks"])


def test_every_key_is_described_and_only_that_of_the_stage_has_its_policy_compared() -> None:
    answers = Answers()
    assert found(answers, kms_key=OLD, other_kms_keys__0=NEW, database__kms_key=NEW) == []
    assert answers.asked == ["DescribeStacks", "DescribeKey", "GetKeyPolicy", "DescribeKey", "DescribeKey"]


def test_a_key_of_another_region_is_refused_without_a_call() -> None:
    answers = Answers()
    (finding,) = found(answers, kms_key=OLD.replace("eu-central-1", "eu-west-1"))
    assert (finding.kind, answers.asked) == (FindingKind.REFUSED, ["DescribeStacks"])
    assert finding.why == "the key is in eu-west-1, and the stage in eu-central-1"


def test_a_policy_that_may_not_be_read_is_a_note_and_a_key_that_may_not_is_unchecked() -> None:
    denied = unchecked("the policy of kms_key", "AWS answers AccessDeniedException", "allow kms:GetKeyPolicy")
    (finding,) = found(Answers(GetKeyPolicy=denied), kms_key=OLD)
    assert finding.kind is FindingKind.NOTE
    assert finding.do.startswith("allow kms:GetKeyPolicy, or compare it by hand")
    assert found(Answers(DescribeKey=denied), kms_key=OLD) == [denied]
    (finding,) = found(Answers(GetKeyPolicy=None), kms_key=OLD)  # the key is in another account
    assert (finding.kind, finding.what) == (FindingKind.NOTE, "the policy of kms_key")


def test_keys_and_policies_are_read_as_aws_models_them() -> None:
    access: Any = {"region_name": "eu-central-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}
    with (
        closing(boto3.client("kms", **access)) as kms,
        closing(boto3.client("cloudformation", **access)) as cloudformation,
        Stubber(kms) as stub,
        Stubber(cloudformation) as stacks,
    ):
        # given a stage that is deployed without keys, a key with a policy, and an unknown key
        stack = {"StackName": "jobs-jobs", "CreationTime": "2026-01-01", "StackStatus": "UPDATE_COMPLETE"}
        outputs = [{"OutputKey": KEYS_OUTPUT, "OutputValue": f"none {OLD}"}]
        stacks.add_response("describe_stacks", {"Stacks": [{**stack, "Outputs": outputs}]})
        stub.add_response("describe_key", {"KeyMetadata": META}, {"KeyId": OLD})
        answer = {"Policy": json.dumps(document("Logs")), "PolicyName": "default"}
        stub.add_response("get_key_policy", answer, {"KeyId": OLD, "PolicyName": "default"})
        stub.add_client_error("describe_key", "NotFoundException", expected_params={"KeyId": NEW})

        # when they are read
        def read(service: str, what: str, permission: str, reader: Callable[[Any], Any]) -> Any:
            return reader({"kms": kms, "cloudformation": cloudformation}[service])

        keys = {"kms_key": OLD, "database.kms_key": NEW}
        noted, lost = findings_on_keys(keys, TEMPLATES, "jobs", "eu-central-1", read)
        # then
        assert (noted.kind, lost.kind, lost.what) == (FindingKind.NOTE, FindingKind.REFUSED, "database.kms_key")
        stacks.add_client_error("describe_stacks", "ValidationError", "Stack with id X does not exist")
        assert read_deployed(cloudformation, "jobs") is None
        stub.assert_no_pending_responses()
