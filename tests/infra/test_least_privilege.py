"""The permissions in all templates for AWS, and the findings of cdk-nag: each app accepts all of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatch
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
from joblane.names import Queue
from joblane.project import Project
from tests.infra import templates
from tests.infra.conftest import RealStages, Synth

REAL = [name for name, settings in context_of_file(Project.here())["stages"].items() if not settings.get("local")]
CONSUMING = {
    *("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"),  # Lambda's poller
    *("sqs:ChangeMessageVisibility", "sqs:GetQueueUrl", "sqs:SendMessage"),  # back-off; messages without an id
}
SENDING = {"sqs:GetQueueUrl", "sqs:SendMessage"}
KEY = "AWS::KMS::Key"
OF_THEMSELVES = (KEY, "AWS::SQS::QueuePolicy")
"""Types whose policies have the resource ``*``: the key or the queue. ``test_rules.py`` has rules on queues."""

WILDCARDS: Mapping[tuple[str, ...], str] = {
    # object keys are created at run time; only their folder is known
    ("s3:AbortMultipartUpload", "s3:PutObject"): r".*/(exports|reports)/\*",
    ("s3:GetObject",): r".*/exports/\*",
    ("s3:DeleteObject",): r".*/(exports|reports)/\*",
    # the sweep sends tasks of types that are no longer deployed, too: the pattern of lanes and their DLQs
    ("sqs:GetQueueUrl", "sqs:SendMessage"): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*",
    # a redrive takes dead letters, also of types that are no longer deployed: the pattern of the lanes' DLQs
    (
        "sqs:ChangeMessageVisibility",
        "sqs:DeleteMessage",
        "sqs:GetQueueAttributes",
        "sqs:GetQueueUrl",
        "sqs:ReceiveMessage",
    ): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*-dlq",
    # the sweep looks for dead letters that SQS moved: the same pattern
    ("sqs:GetQueueAttributes", "sqs:GetQueueUrl", "sqs:ReceiveMessage"): (
        r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*-dlq"
    ),
    # SES checks the identities of recipients and default configuration sets; ses:FromAddress allows one sender
    ("ses:SendEmail",): r"arn:\S+:ses:\S+:(identity|configuration-set)/\*",
    # Lambda creates interfaces with the functions' roles, and describes existing ones without a name
    (
        "ec2:AssignPrivateIpAddresses",
        "ec2:CreateNetworkInterface",
        "ec2:DeleteNetworkInterface",
        "ec2:UnassignPrivateIpAddresses",
    ): r"arn:\S+:ec2:\S+:\*/\*",
    # the Inspector, also for resources of earlier deploys: the patterns of lanes, dead letters, functions and ticks
    ("sqs:GetQueueAttributes", "sqs:GetQueueUrl"): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*",
    ("sqs:SendMessage",): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)-\*",
    (
        "sqs:ChangeMessageVisibility",
        "sqs:ReceiveMessage",
    ): r"arn:\S+:sqs:\S+:PREFIX-(critical|default|low)\*-dlq",
    ("lambda:GetFunctionConcurrency", "lambda:GetFunctionConfiguration"): r"arn:\S+:lambda:\S+:function:PREFIX-\*",
    ("scheduler:ListSchedules",): r"arn:\S+:scheduler:\S+:schedule/\*/\*",  # it has no resource type for one group
    ("scheduler:GetSchedule",): r"arn:\S+:scheduler:\S+:schedule/PREFIX-cron/\*",
    ("logs:FilterLogEvents",): r"arn:\S+:logs:\S+:log-group:/aws/lambda/PREFIX-\*",
    # the operations of a route of the control API; and its stack, whose id the caller does not know
    ("execute-api:Invoke",): r"arn:\S+:execute-api:\S+/\*/POST/(view|operate|edit)/\*",
    ("cloudformation:DescribeStacks",): r"arn:\S+:cloudformation:\S+:stack/PREFIX-control/\*",
}
"""Statements that need a ``*`` in a resource on AWS: their actions → pattern of their resources."""
EVERYTHING = {
    *("ec2:DescribeNetworkInterfaces", "ec2:DescribeSubnets", "lambda:ListEventSourceMappings", "ses:GetAccount"),
    *("lambda:GetAccountSettings", "cloudwatch:GetMetricData"),
}
"""Actions that have no resource type on AWS, and so need the resource ``*``."""


# --- cdk-nag -------------------------------------------------------------------------------------------------------


def test_findings_of_cdk_nag_are_refused_with_their_construct(
    no_packages: Packages, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # given the real stacks, with a queue open to plain http and a role that may read every object in one of them
    def add_planted(app: App, jobs: Jobs, stage: PlatformStage) -> None:
        stack = Stack.of(jobs)
        sqs.Queue(stack, "Planted", dead_letter_queue=None)
        role = iam.Role(stack, "PlantedRole", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
        role.add_to_policy(iam.PolicyStatement(actions=["s3:*"], resources=["*"]))

    app = replace(APP, stacks=[*APP.stacks, add_planted])
    # when
    assert app.main(["-c", "stage=prod", "-o", str(tmp_path / "out")], lambda *_: no_packages) == 1
    # then only these are reported, and there is no template to deploy
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  - ")]
    assert sorted(re.sub(r": The .*", "", line) for line in lines) == [
        "  - jobs-prod-jobs/Planted/Resource: AwsSolutions-SQS3",
        "  - jobs-prod-jobs/Planted/Resource: AwsSolutions-SQS4",
        "  - jobs-prod-jobs/PlantedRole/DefaultPolicy/Resource: AwsSolutions-IAM5[Action::s3:*]",
        "  - jobs-prod-jobs/PlantedRole/DefaultPolicy/Resource: AwsSolutions-IAM5[Resource::*]",
    ]
    assert not list(tmp_path.glob("out/*.template.json"))


def test_every_acknowledgement_matches_a_finding_at_its_construct(
    no_packages: Packages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # given a synthesis that notes the acknowledgements without applying them
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
    # then each finding has an acknowledgement, and each acknowledgement a finding and a sentence as its reason
    findings = {tuple(problem.split(": The ")[0].split(": ", 1)) for problem in caught.value.problems}
    answered = {finding for finding in findings for path, rule, _ in noted if _at(finding, path, rule)}
    assert answered == findings
    assert [(path, rule) for path, rule, _ in noted if not any(_at(found, path, rule) for found in findings)] == []
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
    ids=["text", "sub", "join", "select"],  # the text of a token has a number that changes
)
def test_a_wildcard_is_acknowledged_however_its_resource_is_written(resource: str) -> None:
    app = App()
    role = iam.Role(Stack(app, "planted"), "Role", assumed_by=iam.ServicePrincipal("lambda.amazonaws.com"))
    role.add_to_policy(iam.PolicyStatement(actions=["s3:GetObject"], resources=[resource]))
    with pytest.raises(RefusedTemplateError, match="IAM5"):
        refuse_findings(app)
    acknowledge_wildcards(role, [resource], "It is a test.")
    refuse_findings(app)


def test_an_acknowledgement_applies_to_one_rule_at_one_construct() -> None:
    app = App()
    stack = Stack(app, "planted")
    first, second = (sqs.Queue(stack, name, enforce_ssl=True) for name in ("First", "Second"))
    acknowledge(first, "SQS3", "Nothing reads it.")
    with pytest.raises(RefusedTemplateError) as caught:
        refuse_findings(app)
    (problem,) = caught.value.problems
    assert problem.startswith("planted/Second/Resource: AwsSolutions-SQS3: The SQS queue ")
    assert problem.endswith(
        " Fix it, or give a reason to accept it, next to the construct, with joblane.cdk.nag.acknowledge"
    )
    acknowledge(second, "SQS3", "Nothing reads it.")
    refuse_findings(app)


# --- Every statement -----------------------------------------------------------------------------------------------


def test_wildcards_are_only_where_aws_requires_them(every: Synthesised) -> None:
    wrong = []
    for name, template in every.templates.items():
        for logical_id, statement in _statements(template):
            if statement["Effect"] == "Deny":
                continue
            found = problems(template, statement, every.stage.prefix)
            wrong += [f"{name}/{logical_id}: {problem}" for problem in found]
    assert wrong == []


def test_each_wildcard_is_used_by_a_stage(real_stages: RealStages) -> None:
    found = [
        (set(_many(statement["Action"])), _many(statement.get("Resource", [])))
        for stage in REAL
        for template in real_stages(stage).templates.values()
        for _, statement in _statements(template)
        if statement["Effect"] == "Allow"
    ]
    assert [key for key in WILDCARDS if not any(actions == set(key) for actions, _ in found)] == []
    assert set().union(*(actions for actions, resources in found if resources == ["*"])) == EVERYTHING


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
def test_a_wildcard_is_found_anywhere_in_a_statement(statement: dict[str, Any], problem: str) -> None:
    template = {"Resources": {"P": {"Type": "T", "Properties": {"Statement": [{"Effect": "Allow", **statement}]}}}}
    ((_, read),) = _statements(template)
    assert any(found.startswith(problem) for found in problems(template, read, "jobs"))


def problems(template: Mapping[str, Any], statement: Mapping[str, Any], prefix: str) -> Iterator[str]:
    """Find the parts of a statement that allow more than they name."""
    yield from (key for key in ("NotAction", "NotResource", "NotPrincipal") if key in statement)
    actions = _many(statement.get("Action", []))
    yield from (f"Action {action}" for action in actions if "*" in action)
    known = WILDCARDS.get(tuple(sorted(actions)), "(?!)").replace("PREFIX", re.escape(prefix))
    for resource in (templates.target(template, value) for value in _many(statement.get("Resource", []))):
        allowed = EVERYTHING.issuperset(actions) if resource == "*" else re.fullmatch(known, resource)
        if "*" in resource and not allowed:
            yield f"Resource {resource}"
    principal = statement.get("Principal", {})
    named = principal.values() if isinstance(principal, Mapping) else [principal]
    yield from ("Principal *" for many in named for value in _many(many) if value == "*")
    if "ses:SendEmail" in actions and "ses:FromAddress" not in statement.get("Condition", {}).get("StringEquals", {}):
        yield "ses:FromAddress is no condition"


def _statements(template: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Return all statements of all policies, anywhere in a resource, except those of :data:`OF_THEMSELVES`."""
    for logical_id, resource in template["Resources"].items():
        waiting = [] if resource["Type"] in OF_THEMSELVES else [resource.get("Properties", {})]
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


def test_no_role_has_an_aws_managed_policy(every: Synthesised) -> None:
    for template in every.templates.values():
        for role in templates.of_type(template, "AWS::IAM::Role").values():
            for policy in role.get("ManagedPolicyArns", []):  # only the stage's own, of its network
                assert "NetworkInterfaces" in policy["Ref"]


def test_a_key_is_for_the_account_and_for_the_stages_alarms_and_budget(every: Synthesised) -> None:
    sources = {"cloudwatch.amazonaws.com": f":alarm:{every.stage.prefix}-*"}
    if every.stage.monitoring and every.stage.monitoring.budget:
        sources["budgets.amazonaws.com"] = ":budgets::"
    for key in (key for template in every.templates.values() for key in templates.of_type(template, KEY).values()):
        account, *services = key["KeyPolicy"]["Statement"]
        assert str(account["Principal"]["AWS"]).endswith("':root']]}")
        assert [entry["Principal"] for entry in services] == [{"Service": name} for name in sources]
        for entry in services:
            assert entry["Action"] == ["kms:Decrypt", "kms:GenerateDataKey"]
            assert sources[entry["Principal"]["Service"]] in str(entry["Condition"]["ArnLike"]["aws:SourceArn"])


# --- Roles ---------------------------------------------------------------------------------------------------------


def test_every_function_has_its_own_role_and_writes_only_to_its_own_log(every: Synthesised) -> None:
    for template in every.templates.values():
        roles = [function["Role"]["Fn::GetAtt"][0] for function in templates.functions(template).values()]
        assert len(set(roles)) == len(roles)
        for name, function in templates.functions(template).items():
            role = function["Role"]["Fn::GetAtt"][0]
            (trust,) = template["Resources"][role]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
            assert trust["Principal"] == {"Service": "lambda.amazonaws.com"}
            allowed = templates.allowed(template, name)
            logs = {action: where for action, where in allowed.items() if action.startswith("logs:")}
            if name.endswith("-control"):  # the Inspector reads the logs of other functions
                logs.pop("logs:FilterLogEvents")
            own = {f"/aws/lambda/{name}"}
            assert logs == {"logs:CreateLogStream": own, "logs:PutLogEvents": own}


def test_on_its_own_lanes_a_function_has_the_rights_of_poller_and_runtime(every: Synthesised) -> None:
    template = every.whole(f"{every.stage.prefix}-jobs")
    received: dict[str, set[str]] = {}
    for queue, (function, _) in templates.mappings(template).items():
        received.setdefault(function, set()).add(queue)
        allowed = templates.allowed(template, function)
        is_router = function.endswith("-router")
        assert {action for action in allowed if queue in allowed[action]} == (
            CONSUMING - {"sqs:SendMessage"} if is_router else CONSUMING
        )
        assert {action for action in allowed if f"{queue}-dlq" in allowed[action]} == SENDING
    for function, own in received.items():  # and it receives from no others
        queues = templates.allowed(template, function)["sqs:ReceiveMessage"]
        assert {queue for queue in queues if not queue.endswith("-dlq")} == own


def test_every_function_that_writes_to_the_record_may_wake_the_sweep(every: Synthesised) -> None:
    template, prefix = every.whole(f"{every.stage.prefix}-jobs"), every.stage.prefix
    for name in templates.functions(template):
        allowed = templates.allowed(template, name)
        writes = "DATABASE_URL" in templates.variables(template, name)
        for action in ("sqs:GetQueueUrl", "sqs:SendMessage"):
            queues = [queue.rpartition(":")[2] for queue in allowed.get(action, ())]
            wakes = any(fnmatch(f"{prefix}-low-jobs-sweep", queue) for queue in queues)
            assert wakes is (writes or name == f"{prefix}-router"), name


def test_only_the_task_that_redrives_dead_letters_may_take_them(every: Synthesised) -> None:
    template, prefix = every.whole(f"{every.stage.prefix}-jobs"), every.stage.prefix
    taking = {f"{prefix}-{queue}-*-dlq" for queue in Queue} | {f"{prefix}-{queue}-dlq" for queue in Queue}
    redriving = [task for task in every.jobs.tasks.values() if task.grants.dead_letters]
    redrives = {f"{prefix}-{task.place.name if task.place else task.slug}" for task in redriving}
    for name in templates.functions(template):
        allowed = templates.allowed(template, name)
        taken = {
            queue.rpartition(":")[2] for queue in allowed.get("sqs:DeleteMessage", set()) if queue.endswith("-dlq")
        }
        assert taken == (taking | {f"{prefix}-cron-dlq"} if name in redrives else set())
    # dead letters of a front door go back through it
    sends = {
        queue.rpartition(":")[2] for queue in templates.allowed(template, f"{prefix}-jobs-bulk")["sqs:SendMessage"]
    }
    assert {f"{prefix}-{queue}" for queue in Queue} <= sends


# --- Mail ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["", {"secret": "mail/sender"}])
def test_an_empty_or_secret_sender_address_is_refused(sender: object, synth: Synth) -> None:
    with pytest.raises(StageError, match=r"stage 'dev': settings\.EMAIL_FROM_ADDRESS: the address itself is required"):
        synth(settings={"EMAIL_FROM_ADDRESS": sender})


def test_without_ses_as_mail_provider_no_action_of_ses_is_allowed(synth: Synth) -> None:
    template = synth(settings={"EMAIL_PROVIDER": "smtp"}).whole("acme-jobs")
    assert "ses:SendEmail" not in templates.allowed(template, "acme-report-build")


# --- Services that send --------------------------------------------------------------------------------------------


def test_there_is_a_policy_for_each_type_and_each_front_door(dev: Synthesised) -> None:
    wakes = "acme-low-jobs-sweep"
    assert _producer_policies(dev) == {
        "acme-send-order-ship-${AWS::Region}": {"acme-critical-order-ship", wakes},
        "acme-send-report-build-${AWS::Region}": {"acme-default-report-build", "acme-critical-report-build", wakes},
        "acme-send-jobs-bulk-${AWS::Region}": {"acme-low-jobs-bulk", wakes},
        "acme-send-jobs-sweep-${AWS::Region}": {wakes},
        **{f"acme-send-{queue}-${{AWS::Region}}": {f"acme-{queue}"} for queue in Queue},
    }


def test_a_renamed_type_keeps_the_policy_of_its_old_name(synth: Synth) -> None:
    found = _producer_policies(synth.app("renamed"))
    for name in ("data-copy", "data-move"):
        assert found[f"acme-send-{name}-${{AWS::Region}}"] == {
            f"acme-default-{name}",
            f"acme-low-{name}",
            "acme-low-jobs-sweep",
        }


def test_a_policys_logical_id_depends_only_on_its_type(synth: Synth) -> None:
    # a second policy of the same name would be created before the first is removed, and names are unique
    template = synth.app("renamed").whole("acme-jobs")
    for logical_id, policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").items():
        name = templates.target(template, policy["ManagedPolicyName"]).removeprefix("acme-send-").partition("-$")[0]
        in_front_of_lanes = name in [*Queue]
        assert logical_id.startswith(
            f"{'Jobs' if in_front_of_lanes else name.replace('-', '')}Producer{name.replace('-', '')}"
        )


def _producer_policies(done: Synthesised) -> dict[str, set[str]]:
    """Return queues by the policy's name."""
    template, found = done.whole("acme-jobs"), {}
    for policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").values():
        (statement,) = policy["PolicyDocument"]["Statement"]
        assert (statement["Effect"], set(statement["Action"])) == ("Allow", SENDING)
        name = templates.target(template, policy["ManagedPolicyName"])
        found[name] = {templates.target(template, resource) for resource in _many(statement["Resource"])}
    return found
