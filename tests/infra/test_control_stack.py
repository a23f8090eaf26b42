"""The control API's routes, policies, limits and log, read from the template of the real tasks."""

from __future__ import annotations

import json
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.errors import StageError
from joblane.inspector.permission import ROUTES, Permission
from joblane.names import CONTROL_URL
from tests.infra import templates
from tests.infra.conftest import RealStages, Synth
from tests.infra.templates import Template


@pytest.fixture(scope="module")
def done(synth: Synth) -> Synthesised:
    return synth(
        package="functions",
        control={"rate_per_second": 7, "burst": 9, "max_concurrency": 3},
        account_concurrency=1000,
        log_retention_days=14,
    )


@pytest.fixture(scope="module")
def template(done: Synthesised) -> Template:
    return done.templates["acme-control"]


def only(template: Template, kind: str) -> tuple[str, Any]:
    ((logical_id, properties),) = templates.of_type(template, kind).items()
    return logical_id, properties


# --- Routes --------------------------------------------------------------------------------------------------------


def test_there_is_a_route_for_each_permission_and_no_other(template: Template) -> None:
    routes = templates.of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert sorted(route["RouteKey"] for route in routes) == sorted(ROUTES)
    assert set(ROUTES.values()) == set(Permission)


def test_every_route_requires_a_signature(template: Template) -> None:
    routes = templates.of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert {route["AuthorizationType"] for route in routes} == {"AWS_IAM"}
    assert not templates.of_type(template, "AWS::ApiGatewayV2::Authorizer")
    _, api = only(template, "AWS::ApiGatewayV2::Api")
    assert "CorsConfiguration" not in api


def test_every_route_goes_to_one_function_whose_timeout_is_the_shortest(done: Synthesised, template: Template) -> None:
    logical_id, integration = only(template, "AWS::ApiGatewayV2::Integration")
    assert integration["PayloadFormatVersion"] == "2.0"
    for route in templates.of_type(template, "AWS::ApiGatewayV2::Route").values():
        assert templates.target(template, route["Target"]) == f"integrations/{logical_id}"
    function = templates.functions(done.whole("acme-jobs"))["acme-control"]
    assert function["Timeout"] * 1000 < integration.get("TimeoutInMillis", 30_000)


def test_this_api_and_no_other_may_call_the_function(template: Template) -> None:
    api, _ = only(template, "AWS::ApiGatewayV2::Api")
    _, permission = only(template, "AWS::Lambda::Permission")
    assert permission["Principal"] == "apigateway.amazonaws.com"
    source = templates.target(template, permission["SourceArn"])
    assert source == f"arn:${{AWS::Partition}}:execute-api:${{AWS::Region}}:${{AWS::AccountId}}:{api}/*/*/*"


# --- Policies ------------------------------------------------------------------------------------------------------


def test_each_policy_allows_only_one_route_and_finding_the_api(template: Template) -> None:
    api, _ = only(template, "AWS::ApiGatewayV2::Api")
    found = {
        templates.target(template, policy["ManagedPolicyName"]): [
            (statement["Effect"], statement["Action"], templates.target(template, statement["Resource"]))
            for statement in policy["PolicyDocument"]["Statement"]
        ]
        for policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").values()
    }
    here = "${AWS::Region}:${AWS::AccountId}"
    assert found == {
        f"acme-{permission}-${{AWS::Region}}": [
            ("Allow", "execute-api:Invoke", f"arn:${{AWS::Partition}}:execute-api:{here}:{api}/*/POST/{permission}/*"),
            (
                "Allow",
                "cloudformation:DescribeStacks",
                f"arn:${{AWS::Partition}}:cloudformation:{here}:stack/acme-control/*",
            ),
        ]
        for permission in Permission
    }


def test_no_identity_has_a_policy_by_default(template: Template) -> None:
    for policy in templates.of_type(template, "AWS::IAM::ManagedPolicy").values():
        assert not {"Users", "Groups", "Roles"} & policy.keys()


def test_without_the_setting_there_is_no_page_and_no_role_may_name_a_person(
    done: Synthesised, template: Template
) -> None:
    assert done.jobs.page_url is None
    assert not templates.of_type(template, "AWS::Lambda::Function")
    assert "JOBLANE_PAGE_ROLE" not in templates.variables(done.whole("acme-jobs"), "acme-control")


# --- Limits and log ------------------------------------------------------------------------------------------------


def test_the_api_is_throttled_and_limited_as_set(done: Synthesised, template: Template) -> None:
    _, stage = only(template, "AWS::ApiGatewayV2::Stage")
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": 7, "ThrottlingBurstLimit": 9}
    function = templates.functions(done.whole("acme-jobs"))["acme-control"]
    assert function["ReservedConcurrentExecutions"] == 3


def test_the_access_log_expires_and_holds_no_value_of_the_sender(template: Template) -> None:
    (group,) = (item for item in template["Resources"].values() if item["Type"] == "AWS::Logs::LogGroup")
    assert group["Properties"]["LogGroupName"] == "/aws/vendedlogs/apis/acme-control"
    assert group["Properties"]["RetentionInDays"] == 14
    _, stage = only(template, "AWS::ApiGatewayV2::Stage")
    line = json.loads(stage["AccessLogSettings"]["Format"])
    assert line["route"] == "$context.routeKey"
    assert not [value for value in line.values() if "path" in value.lower() or "authorizer" in value.lower()]


def test_the_apis_address_is_the_output_that_the_command_line_reads(template: Template) -> None:
    api, _ = only(template, "AWS::ApiGatewayV2::Api")
    assert template["Outputs"][CONTROL_URL]["Value"] == {"Fn::GetAtt": [api, "ApiEndpoint"]}


# --- Permissions of the function -----------------------------------------------------------------------------------


def test_the_function_has_only_the_permissions_of_the_inspector(done: Synthesised) -> None:
    allowed = templates.allowed(done.whole("acme-jobs"), "acme-control")
    assert allowed.keys() == {
        *("sqs:GetQueueUrl", "sqs:GetQueueAttributes", "sqs:SendMessage"),
        *("sqs:ReceiveMessage", "sqs:ChangeMessageVisibility"),
        *("lambda:GetFunctionConfiguration", "lambda:ListEventSourceMappings"),
        *("scheduler:GetSchedule", "scheduler:ListSchedules", "logs:FilterLogEvents"),
        *("logs:CreateLogStream", "logs:PutLogEvents", "secretsmanager:GetSecretValue"),
        *("ses:GetAccount", "ses:GetEmailIdentity", "events:DescribeEventBus"),
    }
    # of SES it reads the state of the account, and of the identities that cover the stage's sender
    assert {arn.rpartition(":")[2] for arn in allowed["ses:GetEmailIdentity"]} == {
        "identity/no-reply@example.com",
        "identity/example.com",
    }
    # it reads messages only from dead-letter queues, and sends to lanes and to no front door
    read = {arn.rpartition(":")[2] for arn in allowed["sqs:ReceiveMessage"]}
    assert read == {"acme-critical*-dlq", "acme-default*-dlq", "acme-low*-dlq", "acme-cron-dlq"}
    assert {arn.rpartition(":")[2] for arn in allowed["sqs:SendMessage"]} == {
        "acme-critical-*",
        "acme-default-*",
        "acme-low-*",
        "acme-low-jobs-sweep",  # it wakes the sweep
    }


def test_the_state_of_ses_is_read_only_if_the_stage_sends_by_it(synth: Synth) -> None:
    settings = {"EMAIL_PROVIDER": "smtp", "EMAIL_FROM_ADDRESS": "no-reply@example.com", "SMTP_HOST": "smtp.example.com"}
    done = synth(package="functions", control={}, settings=settings)
    assert not [action for action in templates.allowed(done.templates["acme-jobs"], "acme-control") if "ses:" in action]
    assert "JOBLANE_MAIL_FROM" not in templates.variables(done.whole("acme-jobs"), "acme-user-invitation")


# --- Settings ------------------------------------------------------------------------------------------------------


def test_a_stage_without_the_setting_has_neither_api_nor_function(synth: Synth) -> None:
    done = synth(package="functions", removal="destroy")
    assert "acme-control" not in done.templates
    assert "acme-control" not in templates.functions(done.whole("acme-jobs"))


def test_both_stages_for_aws_have_it(real_stages: RealStages) -> None:
    for name in ("dev", "prod"):
        assert f"jobs-{name}-control" in real_stages(name).templates


def test_a_local_stage_has_no_control_api(synth: Synth) -> None:
    with pytest.raises(StageError, match="control: an emulator does not verify signatures; leave it out"):
        synth("local", control={})


def test_the_reservations_of_both_apis_are_limited_together(synth: Synth) -> None:
    api = {"authorizer": {"kind": "iam"}, "max_concurrency": 15}
    with pytest.raises(StageError, match=r"control\.max_concurrency: 5 at most is required"):
        synth(api=api, control={"max_concurrency": 6}, account_concurrency=120)


@pytest.mark.parametrize(
    ("control", "problem"),
    [
        ({"rate_per_second": 0}, "control.rate_per_second: .*greater than or equal to 1"),
        ({"burst": 0}, "control.burst: .*greater than or equal to 1"),
        ({"max_concurrency": 0}, "control.max_concurrency: .*greater than or equal to 1"),
        ({"authorizer": {"kind": "jwt"}}, "control.authorizer: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(control: dict[str, Any], problem: str, synth: Synth) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}"):
        synth(control=control)
