"""What the stages for AWS allow to whom, read from all their templates; and what cdk-nag says of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aws_cdk import App, Fn, Stack
from aws_cdk import aws_iam as iam
from aws_cdk import aws_sqs as sqs

import joblane.cdk.nag
from infra.app import APP
from infra.settings import PlatformStage
from joblane.cdk.app import Synthesised, context_of_file
from joblane.cdk.constructs.jobs import Jobs
from joblane.cdk.errors import RefusedTemplateError, StageError
from joblane.cdk.nag import acknowledge, acknowledge_wildcards, refuse_findings
from joblane.cdk.packaging import Packages
from joblane.discovery import discover
from joblane.project import Project
from joblane.queues import Queue
from tests.infra import templates
from tests.infra.conftest import RealStages, Synth

REAL = [name for name, settings in context_of_file(Project.here())["stages"].items() if not settings.get("local")]
CONSUMING = {
    *("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),  # Lambda's poller
    *("sqs:ChangeMessageVisibility", "sqs:GetQueueUrl", "sqs:SendMessage"),  # back-off; a message without an id
}
SENDING = {"sqs:GetQueueUrl", "sqs:SendMessage"}
KEY = "AWS::KMS::Key"

WILDCARDS: Mapping[tuple[str, ...], str] = {
    # the keys of objects are made at run time: their folder, and what is done there
    ("s3:AbortMultipartUpload", "s3:PutObject"): r".*/(exports|reports)/\*",
    ("s3:GetObject",): r".*/exports/\*",
    ("s3:DeleteObject",): r".*/(exports|reports)/\*",
    # the record may hold tasks of types that are deployed no more: the sweep, by the pattern of lanes and their DLQs
    ("sqs:GetQueueUrl", "sqs:SendMessage"): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*",
    # the dead-letter queues of lanes, also of types that are deployed no more: what is redriven is taken from there
    (
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:ReceiveMessage",
    ): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*-dlq",
    # SES asks for the identities of recipients, too; ses:FromAddress leaves one sender
    ("ses:SendEmail",): r"arn:\S+:ses:\S+:identity/\*",
    # Lambda makes interfaces with the functions' roles, and what is there already is asked for without a name
    (
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:UnassignPrivateIpAddresses",
    ): r"arn:\S+:ec2:\S+:\*/\*",
    ("ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets"): r"\*",
    # the inspector, of what earlier deploys have left as well: by the patterns of lanes, dead letters, functions, ticks
    ("sqs:GetQueueAttributes", "sqs:GetQueueUrl"): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*",
    ("sqs:SendMessage",): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*",
    (
        "sqs:ChangeMessageVisibility",
        "sqs:ReceiveMessage",
    ): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)\*-dlq",
    ("lambda:GetFunctionConfiguration",): r"arn:\S+:lambda:\S+:function:PREFIX-\*",
    ("lambda:ListEventSourceMappings",): r"\*",  # AWS knows no resource for it
    ("scheduler:ListSchedules",): r"arn:\S+:scheduler:\S+:schedule/\*/\*",  # nor for a list of one group
    ("scheduler:GetSchedule",): r"arn:\S+:scheduler:\S+:schedule/PREFIX-cron/\*",
    ("logs:FilterLogEvents",): r"arn:\S+:logs:\S+:log-group:/aws/lambda/PREFIX-\*",
    # a route of the control API: its operations; and where it is, of a stack whose id is not known when it is asked for
    ("execute-api:Invoke",): r"arn:\S+:execute-api:\S+/\*/POST/(view|operate|edit)/\*",
    ("cloudformation:DescribeStacks",): r"arn:\S+:cloudformation:\S+:stack/PREFIX-control/\*",
}
"""Where AWS has no other way than a ``*`` in a resource: a statement's actions → what its resources may look like."""


@pytest.fixture(params=REAL)
def real(request: pytest.FixtureRequest, real_stages: RealStages) -> Synthesised:
    return real_stages(request.param)


# --- cdk-nag -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", REAL)
def test_cdk_nag_finds_nothing_that_is_not_answered(stage: str, real_stages: RealStages) -> None:
    assert real_stages(stage).templates  # refused otherwise, as the next test shows


def test_what_cdk_nag_finds_is_refused_with_its_place(
    no_packages: Packages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given the real stacks and, in one of them, a queue open to plain http and a role that may read every object
    def add_planted(app: App, jobs: Jobs, stage: PlatformStage) -> None:
        stack = Stack.of(jobs)
        sqs.Queue(stack, "Planted", dead_letter_queue=None)
        role = iam.Role(stack, "PlantedRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        role.add_to_policy(iam.PolicyStatement(actions=["s3:*"], resources=["*"]))

    app = replace(APP, stacks=[*APP.stacks, add_planted])
    # when
    assert app.main(["-c", "stage=prod", "-o", str(tmp_path / "out")], lambda *_: no_packages) == 1
    # then each is told, and nothing else, and no template is there to be deployed
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  - ")]
    assert sorted(re.sub(r": The .*", "", line) for line in lines) == [
        "  - jobs-prod-jobs/Planted/Resource: AwsSolutions-SQS3",
        "  - jobs-prod-jobs/Planted/Resource: AwsSolutions-SQS4",
        "  - jobs-prod-jobs/PlantedRole/DefaultPolicy/Resource: AwsSolutions-IAM5[Action::s3:*]",
        "  - jobs-prod-jobs/PlantedRole/DefaultPolicy/Resource: AwsSolutions-IAM5[Resource::*]",
    ]
    assert not list(tmp_path.glob("out/*.template.json"))


def test_every_acknowledgement_answers_a_finding_at_its_place(
    no_packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a synthesis that notes what would be acknowledged, and acknowledges nothing
    noted: list[tuple[str, str, str]] = []

    class Noting:
        def __init__(self, construct: Any) -> None:
            self._path = construct.node.path

        of = classmethod(lambda cls, construct: cls(construct))

        def acknowledge(self, what: Any) -> None:
            noted.append((self._path, what.id, what.reason))

    monkeypatch.setattr(joblane.cdk.nag, "Validations", Noting)
    with pytest.raises(RefusedTemplateError) as caught:
        APP.synthesise(
            context_of_file(Project.here()) | {"stage": "dev"},
            output=tmp_path,
            environ={},
            build=lambda *_: no_packages,
        )
    # then there is an answer to each finding, and a finding to each answer, which is a sentence
    findings = {tuple(problem.split(": The ")[0].split(": ", 1)) for problem in caught.value.problems}
    answered = {finding for finding in findings for path, rule, _ in noted if _at(finding, path, rule)}
    assert answered == findings
    assert [one for one in noted if not any(_at(finding, *one[:2]) for finding in findings)] == []
    assert all(reason.endswith(".") and len(reason) > 40 for _, _, reason in noted)


def _at(finding: tuple[str, ...], path: str, rule: str) -> bool:
    return finding[0].startswith(f"{path}/") and finding[1] == rule


@pytest.mark.parametrize(
    "resource",
    [
        "arn:aws:s3:::mine/*",
        Fn.sub("arn:aws:s3:::${AWS::AccountId}-mine/*"),
        Fn.join("/", [Fn.import_value("theirs"), "*"]),
        Fn.join("", [Fn.select(1, Fn.split("/", Fn.ref("AWS::StackId"))), "/*"]),
    ],
    ids=["text", "sub", "join", "select"],  # a token's text counts tokens
)
def test_a_wildcard_is_acknowledged_however_its_resource_is_written(resource: str) -> None:
    app = App()
    role = iam.Role(Stack(app, "planted"), "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[resource]))
    with pytest.raises(RefusedTemplateError, match="IAM5"):
        refuse_findings(app)
    acknowledge_wildcards(role, [resource], "It is a test.")
    refuse_findings(app)


def test_an_acknowledgement_is_of_one_rule_and_one_place() -> None:
    app = App()
    stack = Stack(app, "planted")
    first, second = (sqs.Queue(stack, name, enforce_ssl=True) for name in ("First", "Second"))
    acknowledge(first, "SQS3", "Nothing reads it.")
    with pytest.raises(RefusedTemplateError) as caught:
        refuse_findings(app)
    (problem,) = caught.value.problems
    assert problem.startswith("planted/Second/Resource: AwsSolutions-SQS3: The SQS queue ")
    assert problem.endswith(" Mend it, or say beside the construct why it is right, by joblane.cdk.nag.acknowledge")
    acknowledge(second, "SQS3", "Nothing reads it.")
    refuse_findings(app)


# --- Every statement -----------------------------------------------------------------------------------------------


def test_nothing_is_allowed_by_a_wildcard_but_where_aws_has_no_other_way(real: Synthesised) -> None:
    wrong, seen = [], set()
    for name, template in real.templates.items():
        for logical_id, statement in _statements(template):
            if statement["Effect"] == "Deny":
                continue
            found = problems(template, statement, real.stage.prefix)
            seen |= {actions for actions in WILDCARDS if set(actions) == set(_many(statement["Action"]))}
            wrong += [f"{name}/{logical_id}: {problem}" for problem in found]
    assert wrong == []
    assert seen == set(WILDCARDS)  # none is left on the list that nothing needs


@pytest.mark.parametrize(
    ("statement", "problem"),
    [
        ({"Action": "s3:*", "Resource": "arn:aws:s3:::a"}, "Action s3:*"),
        ({"Action": "s3:GetObject", "Resource": "*"}, "Resource *"),
        ({"Action": "s3:PutObject", "Resource": "arn:aws:s3:::a/exports/*"}, "Resource arn:aws:s3:::a/exports/*"),
        ({"Action": "s3:GetObject", "Resource": {"Fn::Sub": "${Bucket.Arn}/*"}}, 'Resource {"Fn::Sub": "${Bucket'),
        ({"Action": "sqs:SendMessage", "Resource": "arn:aws:sqs:eu:1:jobs-*"}, "Resource arn:aws:sqs:eu:1:jobs-*"),
        ({"NotAction": "iam:*", "Resource": "arn:aws:s3:::a"}, "NotAction"),
        ({"Action": "s3:GetObject", "NotResource": "arn:aws:s3:::a"}, "NotResource"),
        ({"Action": "sts:AssumeRole", "Principal": {"AWS": "*"}}, "Principal *"),
        ({"Action": "ses:SendEmail", "Resource": "arn:aws:ses:eu:1:identity/*"}, "ses:FromAddress"),
    ],
)
def test_a_wildcard_is_seen_wherever_it_stands(statement: dict[str, Any], problem: str) -> None:
    template = {"Resources": {"P": {"Type": "T", "Properties": {"Statement": [{"Effect": "Allow", **statement}]}}}}
    ((_, found),) = _statements(template)
    assert any(one.startswith(problem) for one in problems(template, found, "jobs"))


def problems(template: Mapping[str, Any], statement: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """What of a statement allows more than it names."""
    yield from (key for key in ("NotAction", "NotResource", "NotPrincipal") if key in statement)
    actions = _many(statement.get("Action", []))
    yield from (f"Action {action}" for action in actions if "*" in action)
    known = WILDCARDS.get(tuple(sorted(actions)), "(?!)").replace("PREFIX", re.escape(prefix))
    for resource in (templates.target(template, value) for value in _many(statement.get("Resource", []))):
        if "*" in resource and not re.fullmatch(known, resource):
            yield f"Resource {resource}"
    principal = statement.get("Principal", {})
    named = principal.values() if isinstance(principal, Mapping) else [principal]
    yield from (f"Principal {one}" for many in named for one in _many(many) if one == "*")
    if "ses:SendEmail" in actions and "ses:FromAddress" not in statement.get("Condition", {}).get("StringEquals", {}):
        yield "ses:FromAddress is no condition"


def _statements(template: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """All statements of all policies, wherever in a resource they are; but those of keys, whose ``*`` is the key."""
    for logical_id, resource in template["Resources"].items():
        waiting = [] if resource["Type"] == KEY else [resource.get("Properties", {})]
        while waiting:
            value = waiting.pop()
            if isinstance(value, Mapping):
                if "Effect" in value:
                    yield logical_id, value
                waiting.extend(value.values())
            elif isinstance(value, list):
                waiting.extend(value)


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def test_no_role_has_a_policy_of_aws(real: Synthesised) -> None:
    for template in real.templates.values():
        for role in templates.of_type(template, "AWS::IAM::Role").values():
            # the stage's own alone, from its stack of what is kept
            assert {tuple(policy) for policy in role.get("ManagedPolicyArns", [])} <= {("Fn::ImportValue",)}


def test_a_key_is_the_accounts_and_cloudwatchs_for_the_stages_alarms(real: Synthesised) -> None:
    (key,) = (key for one in real.templates.values() for key in templates.of_type(one, KEY).values())
    account, cloudwatch = key["KeyPolicy"]["Statement"]
    assert str(account["Principal"]["AWS"]).endswith("':root']]}")
    assert cloudwatch["Principal"] == {"Service": "cloudwatch.amazonaws.com"}
    assert cloudwatch["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
    assert f":alarm:{real.stage.prefix}-*" in str(cloudwatch["Condition"]["ArnLike"]["aws:SourceArn"])


# --- Queues --------------------------------------------------------------------------------------------------------


def test_every_queue_is_encrypted_and_refuses_plain_http(real: Synthesised) -> None:
    for template in real.templates.values():
        guarded = set()
        for policy in templates.of_type(template, "AWS::SQS::QueuePolicy").values():
            (statement,) = policy["PolicyDocument"]["Statement"]
            assert (statement["Effect"], statement["Action"], statement["Principal"]) == ("Deny", "sqs:*", {"AWS": "*"})
            assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
            assert [templates.target(template, queue) for queue in policy["Queues"]] == [
                templates.target(template, statement["Resource"])
            ]
            guarded.add(templates.target(template, statement["Resource"]))
        assert guarded == set(templates.queues(template))
        assert all(queue["SqsManagedSseEnabled"] for queue in templates.queues(template).values())


# --- Roles ---------------------------------------------------------------------------------------------------------


def test_every_function_has_a_role_of_its_own_and_writes_to_its_own_log_alone(real: Synthesised) -> None:
    for template in real.templates.values():
        roles = [function["Role"]["Fn::GetAtt"][0] for function in templates.functions(template).values()]
        assert len(set(roles)) == len(roles)
        for name, function in templates.functions(template).items():
            role = function["Role"]["Fn::GetAtt"][0]
            (trust,) = template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
            assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}
            allowed = templates.allowed(template, name)
            logs = {action: where for action, where in allowed.items() if action.startswith("logs:")}
            if name.endswith("-control"):  # whose inspector reads the others'
                logs.pop("logs:FilterLogEvents")
            own = {f"/aws/lambda/{name}"}
            assert logs == {"logs:CreateLogStream": own, "logs:PutLogEvents": own}


def test_of_its_own_lanes_a_function_may_do_what_the_poller_and_the_runtime_do(real: Synthesised) -> None:
    template = real.templates[f"{real.stage.prefix}-jobs"]
    for queue, (function, _) in templates.mappings(template).items():
        allowed = templates.allowed(template, function)
        door = function.endswith("-router")
        assert {action for action in allowed if queue in allowed[action]} == (
            CONSUMING - {"sqs:SendMessage"} if door else CONSUMING
        )
        looking = {"sqs:GetQueueAttributes", "sqs:ReceiveMessage"} if function.endswith("-jobs-sweep") else set()
        assert {action for action in allowed if f"{queue}-dlq" in allowed[action]} == SENDING | looking


def test_dead_letters_are_taken_by_the_one_who_redrives_them_and_by_nobody_else(real: Synthesised) -> None:
    template, prefix = real.templates[f"{real.stage.prefix}-jobs"], real.stage.prefix
    taking = {f"{prefix}-{queue}-*-dlq" for queue in Queue} | {f"{prefix}-{queue}-dlq" for queue in Queue}
    for name in templates.functions(template):
        allowed = templates.allowed(template, name)
        taken = {
            queue.rpartition(":")[2] for queue in allowed.get("sqs:DeleteMessage", set()) if queue.endswith("-dlq")
        }
        assert taken == (taking | {f"{prefix}-cron-dlq"} if name == f"{prefix}-jobs-bulk" else set())
    # what came from a front door goes back through it
    sends = {
        queue.rpartition(":")[2] for queue in templates.allowed(template, f"{prefix}-jobs-bulk")["sqs:SendMessage"]
    }
    assert {f"{prefix}-{queue}" for queue in Queue} <= sends


def test_a_schedules_role_serves_the_schedules_of_its_group_alone(real: Synthesised) -> None:
    found = 0
    for template in real.templates.values():
        for role in templates.of_type(template, "AWS::IAM::Role").values():
            for statement in role["AssumeRolePolicyDocument"]["Statement"]:
                if statement["Principal"] == {"Service": "scheduler.amazonaws.com"}:
                    conditions = statement["Condition"]["StringEquals"]
                    assert conditions["aws:SourceAccount"] == {"Ref": "AWS::AccountId"}
                    group = templates.target(template, conditions["aws:SourceArn"])
                    assert group.endswith(f":schedule-group/{real.stage.prefix}-cron")
                    found += 1
    assert found == sum(len(task.schedules) for task in discover().values())


# --- Mail ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["", {"secret": "mail/sender"}])
def test_a_sender_that_is_not_written_out_is_refused(sender: object, synth: Synth) -> None:
    with pytest.raises(StageError, match=r"stage 'dev': settings\.EMAIL_FROM_ADDRESS: the address itself is required"):
        synth(settings={"EMAIL_FROM_ADDRESS": sender})


def test_where_mails_go_another_way_nothing_of_ses_is_allowed(synth: Synth) -> None:
    template = synth(settings={"EMAIL_PROVIDER": "smtp"}).templates["acme-jobs"]
    assert "ses:SendEmail" not in templates.allowed(template, "acme-report-build")


# --- Services that send --------------------------------------------------------------------------------------------


def test_a_service_can_be_given_each_type_and_each_front_door_by_itself(dev: Synthesised) -> None:
    assert _producer_policies(dev) == {
        "acme-send-order-ship-${AWS::Region}": {"acme-critical-order-ship"},
        "acme-send-report-build-${AWS::Region}": {"acme-default-report-build", "acme-critical-report-build"},
        "acme-send-jobs-bulk-${AWS::Region}": {"acme-low-jobs-bulk"},
        "acme-send-jobs-sweep-${AWS::Region}": {"acme-low-jobs-sweep"},
        **{f"acme-send-{queue}-${{AWS::Region}}": {f"acme-{queue}"} for queue in Queue},
    }


def test_a_type_that_was_renamed_keeps_the_policy_of_its_old_name(synth: Synth) -> None:
    found = _producer_policies(synth(package="tests.infra.renamed", settings={}))
    for name in ("data-copy", "data-move"):
        assert found[f"acme-send-{name}-${{AWS::Region}}"] == {f"acme-default-{name}", f"acme-low-{name}"}


def test_a_policys_logical_id_follows_from_its_type_and_not_from_where_that_is_declared(synth: Synth) -> None:
    # else the old name's would be made a second time before the first is removed, and a name can be had once
    template = synth(package="tests.infra.renamed", settings={}).templates["acme-jobs"]
    for logical_id, policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").items():
        name = templates.target(template, policy["ManagedPolicyName"]).removeprefix("acme-send-").partition("-$")[0]
        assert logical_id.startswith(f"JobsProducers{name.replace('-', '')}")


def _producer_policies(done: Synthesised) -> dict[str, set[str]]:
    """Queues by the policy's name."""
    template, found = done.templates["acme-jobs"], {}
    for policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").values():
        (statement,) = policy["PolicyDocument"]["Statement"]
        assert (statement["Effect"], set(statement["Action"])) == ("Allow", SENDING)
        name = templates.target(template, policy["ManagedPolicyName"])
        found[name] = {templates.target(template, resource) for resource in _many(statement["Resource"])}
    return found
