"""The preflight's rules on the KMS keys of a stage, and their readers."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from typing import Any

import boto3
import pytest
from botocore.stub import Stubber

from joblane.cdk.key_policy import Place, missing, principal, statements
from joblane.cdk.preflight.findings import Finding, FindingKind, unchecked
from joblane.cdk.preflight.keys import (
    KEYS_OUTPUT,
    MIGRATION_OUTPUT,
    UsedKeys,
    changes,
    findings_on_keys,
    key,
    policy,
    read_deployed,
)

OLD, NEW, THIRD = (f"arn:aws:kms:eu-central-1:111122223333:key/{id_ * 8}-12ab-34cd-56ef-1234567890ab" for id_ in "abc")
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
ACCOUNT = PLACE.account
TEMPLATES: dict[str, Any] = {
    "shop": {
        "Resources": {
            "Logs": {"Type": "AWS::Logs::LogGroup", "Properties": {}},
            "Run": {"Type": "Custom::Migration", "Properties": {}},
        },
        "Outputs": {"Address": {"Value": {"Ref": "Api"}}, "JobsMigrationResource1A2B3C4D": {"Value": "Run"}},
    }
}
"""The templates of a CDK app with the jobs in its stack ``shop``."""


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
    assert found.why.startswith(f"the deployed stage has {OLD}, and the new templates {wanted.key or 'no key'}: funct")
    assert f'write "other_kms_keys": {json.dumps([*wanted.others, OLD])}, and leave "{OLD}" there' in found.do


@pytest.mark.parametrize(
    ("deployed", "kept"), [(NONE, "and no kms_key"), (UsedKeys(OLD), f'and "kms_key": "{OLD}"')], ids=["first", "next"]
)
def test_a_key_that_the_deployed_roles_may_not_use_yet_is_refused(deployed: UsedKeys, kept: str) -> None:
    (found,) = changes(UsedKeys(NEW, deployed.all), deployed)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "kms_key")
    assert found.do.startswith(f'deploy first with "other_kms_keys": ["{NEW}"] {kept}; then with the new kms_key')


def test_a_change_in_a_single_deploy_has_one_finding_with_the_next_step() -> None:
    (found,) = changes(UsedKeys(NEW, (THIRD,)), UsedKeys(OLD, (THIRD,)))
    first = f'deploy first with "other_kms_keys": ["{NEW}", "{THIRD}"] and "kms_key": "{OLD}"; '
    assert found.do.startswith(f'{first}then with the new kms_key, and "{OLD}" in other_kms_keys; ')
    # and each of the two steps has no finding
    between = UsedKeys(OLD, (NEW, THIRD))
    assert list(changes(between, UsedKeys(OLD, (THIRD,)))) == list(changes(UsedKeys(NEW, (THIRD, OLD)), between)) == []


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


@pytest.mark.parametrize(
    ("state", "advice"),
    [
        ("PendingDeletion", f"aws kms cancel-key-deletion --key-id {OLD}; then aws kms enable-key --key-id {OLD}"),
        ("Disabled", f"aws kms enable-key --key-id {OLD}"),
        ("PendingImport", f"deploy when aws kms describe-key --key-id {OLD} shows Enabled"),
    ],
)
def test_a_key_that_can_be_used_again_is_not_to_be_replaced(state: str, advice: str) -> None:
    (found,) = key("other_kms_keys.0", OLD, {**META, "KeyState": state})
    assert (found.kind, advice in found.do) == (FindingKind.REFUSED, True)
    assert "write the ARN" not in found.do
    (found,) = key("other_kms_keys.0", OLD, {**META, "KeyState": state, "KeyManager": "AWS"})
    assert found.do.startswith("write the ARN of a symmetric key")


def test_a_former_key_that_is_deleted_has_to_be_left_out() -> None:
    (found,) = key("other_kms_keys.0", OLD, None)
    assert (found.kind, found.do[-19:]) == (FindingKind.REFUSED, ": leave the key out")


def test_a_missing_key_is_refused() -> None:
    (found,) = key("database.kms_key", OLD, None)
    assert (found.kind, found.what) == (FindingKind.REFUSED, "database.kms_key")
    assert OLD in found.why


def document(*left_out: str) -> dict[str, Any]:
    return {"Statement": [each for each in statements(PLACE, SERVICES) if each["Sid"] not in left_out]}


def test_the_policy_of_the_page_has_all_that_is_needed() -> None:
    assert list(missing(document(), SERVICES, "eu-central-1", ACCOUNT)) == []
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
    assert list(missing(found, ["events"], "eu-central-1", ACCOUNT)) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ("arn:aws:iam::111122223333:root", []),
        ("111122223333", []),
        (["arn:aws:iam::999999999999:root", "111122223333"], []),
        ("arn:aws:iam::999999999999:root", ["the account"]),
        ("999999999999", ["the account"]),
    ],
)
def test_only_the_account_of_the_key_is_the_account(named: Any, expected: list[str]) -> None:
    found = {"Statement": [{"Effect": "Allow", "Principal": {"AWS": named}, "Action": "kms:*"}]}
    assert list(missing(found, [], "eu-central-1", ACCOUNT)) == expected
    noted = policy("kms_key", OLD, [], "eu-central-1", found)
    assert [each.kind for each in noted] == [FindingKind.NOTE] * len(expected)


ROOT = {"AWS": "arn:aws:iam::111122223333:root"}


@pytest.mark.parametrize(
    ("denied", "expected"),
    [
        ({"Principal": "*", "Action": "*"}, ["the account", "events.amazonaws.com"]),
        ({"Principal": ROOT, "Action": ["kms:Decrypt"]}, ["the account"]),
        ({"Principal": {"Service": "events.amazonaws.com"}, "Action": "kms:Generate*"}, ["events.amazonaws.com"]),
        ({"Principal": "*", "Action": "kms:ScheduleKeyDeletion"}, []),
        ({"Principal": {"AWS": "arn:aws:iam::999999999999:root"}, "Action": "*"}, []),
        ({"Principal": "*", "Action": "*", "Condition": {"Bool": {"aws:SecureTransport": "false"}}}, []),
    ],
)
def test_an_explicit_deny_is_found(denied: dict[str, Any], expected: list[str]) -> None:
    found = {"Statement": [*document()["Statement"], {"Effect": "Deny", "Resource": "*", **denied}]}
    shown = [f"{name} (which a Deny names)" for name in expected]
    assert list(missing(found, ["events"], "eu-central-1", ACCOUNT)) == shown


def test_both_forms_of_the_name_of_logs_are_accepted_in_china_only() -> None:
    name = "logs.cn-north-1.amazonaws.com.cn"
    assert principal("logs", "cn-north-1") == name
    place = Place("aws-cn", "cn-north-1", ACCOUNT, "jobs")
    found: dict[str, Any] = {"Statement": statements(place, ["logs"])}
    assert list(missing(found, ["logs"], "cn-north-1", ACCOUNT)) == []
    other = json.loads(json.dumps(found).replace(name, "logs.cn-north-1.amazonaws.com"))
    assert list(missing(other, ["logs"], "cn-north-1", ACCOUNT)) == []
    ireland = json.loads(json.dumps(found).replace("cn-north-1", "eu-west-1"))
    assert list(missing(ireland, ["logs"], "eu-west-1", ACCOUNT)) == ["logs.eu-west-1.amazonaws.com"]


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
    return list(findings_on_keys(named, TEMPLATES, "eu-central-1", answers))


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


@pytest.mark.parametrize("templates", [{"base/Nested": TEMPLATES["shop"]}, {"shop": {"Resources": {}}}])
def test_a_stack_that_the_templates_do_not_name_is_unchecked(templates: dict[str, Any]) -> None:
    answers = Answers()
    (finding,) = findings_on_keys({"kms_key": OLD}, templates, "eu-central-1", answers)
    assert (finding.kind, finding.what) == (FindingKind.UNCHECKED, "the KMS keys of the deployed stage")
    assert "DescribeStacks" not in answers.asked
    assert list(findings_on_keys({}, templates, "eu-central-1", answers)) == []


def stack(status: str = "UPDATE_COMPLETE", **outputs: str) -> dict[str, Any]:
    listed = [{"OutputKey": name, "OutputValue": value} for name, value in outputs.items()]
    return {"Stacks": [{"StackName": "shop", "CreationTime": "2026-01-01", "StackStatus": status, "Outputs": listed}]}


def test_the_keys_of_a_stage_in_a_cdk_app_are_compared(access: dict[str, Any]) -> None:
    with closing(boto3.client("cloudformation", **access)) as client, Stubber(client) as stub:

        def read(service: str, what: str, permission: str, reader: Callable[[Any], Any]) -> Any:
            return reader(client) if service == "cloudformation" else Answers()(service, what, permission, reader)

        def findings(described: dict[str, Any]) -> list[Finding]:
            stub.add_response("describe_stacks", described, {"StackName": "shop"})
            return list(findings_on_keys({"kms_key": NEW}, TEMPLATES, "eu-central-1", read))

        jobs = {"JobsMigrationResource1A2B3C4D": "Run"}
        # a stage with another key, and with none
        (another,) = findings(stack(**jobs, JobsKmsKeys1A2B3C4D=OLD, Address="x"))
        assert (another.kind, another.what, OLD in another.why) == (FindingKind.REFUSED, "kms_key", True)
        (first,) = findings(stack(**jobs))
        assert (first.kind, "has no key" in first.why) == (FindingKind.REFUSED, True)
        # this key, the first deploy of the jobs into a stack that exists, and of the stack
        assert findings(stack(**jobs, JobsKmsKeys1A2B3C4D=NEW)) == []
        assert findings(stack(Address="x")) == []
        assert findings(stack("REVIEW_IN_PROGRESS")) == []
        stub.assert_no_pending_responses()


@pytest.fixture
def access() -> dict[str, Any]:
    return {"region_name": "eu-central-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


def test_keys_and_policies_are_read_as_aws_models_them(access: dict[str, Any]) -> None:
    with (
        closing(boto3.client("kms", **access)) as kms,
        closing(boto3.client("cloudformation", **access)) as cloudformation,
        Stubber(kms) as stub,
        Stubber(cloudformation) as stacks,
    ):
        # given a stage that is deployed without keys, a key with a policy, and an unknown key
        outputs = {MIGRATION_OUTPUT: "Run", KEYS_OUTPUT: f"none {OLD}"}
        stacks.add_response("describe_stacks", stack(**outputs), {"StackName": "jobs-jobs"})
        stub.add_response("describe_key", {"KeyMetadata": META}, {"KeyId": OLD})
        answer = {"Policy": json.dumps(document("Logs")), "PolicyName": "default"}
        stub.add_response("get_key_policy", answer, {"KeyId": OLD, "PolicyName": "default"})
        stub.add_client_error("describe_key", "NotFoundException", expected_params={"KeyId": NEW})

        # when they are read
        def read(service: str, what: str, permission: str, reader: Callable[[Any], Any]) -> Any:
            return reader({"kms": kms, "cloudformation": cloudformation}[service])

        keys = {"kms_key": OLD, "database.kms_key": NEW}
        template = {**TEMPLATES["shop"], "Outputs": {MIGRATION_OUTPUT: {"Value": "Run"}}}
        noted, lost = findings_on_keys(keys, {"jobs-jobs": template}, "eu-central-1", read)
        # then
        assert (noted.kind, lost.kind, lost.what) == (FindingKind.NOTE, FindingKind.REFUSED, "database.kms_key")
        stacks.add_client_error("describe_stacks", "ValidationError", "Stack with id X does not exist")
        assert read_deployed(cloudformation, "jobs-jobs", MIGRATION_OUTPUT) is None
        stub.assert_no_pending_responses()
