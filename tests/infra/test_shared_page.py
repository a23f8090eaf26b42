"""The page that a team shares: its role, function, API and settings, read from the template."""

from __future__ import annotations

import json
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.errors import StageError
from joblane.inspector.shared_page import VARIABLE, Configuration
from joblane.page.hosted.entry import ANSWER_SECONDS
from tests.infra import templates
from tests.infra.conftest import Synth
from tests.infra.templates import Template

SECRET = "arn:aws:secretsmanager:eu-central-1:111122223333:secret:page-AbCdEf"
OIDC: dict[str, Any] = {
    "issuer": "https://id.acme.test",
    "client_id": "the-client",
    "roles_claim": "groups",
    "roles": {"view": ["readers"], "operate": ["ops"]},
}


@pytest.fixture(scope="module")
def done(synth: Synth) -> Synthesised:
    page = {"oidc": {**OIDC, "client_secret": SECRET}, "max_concurrency": 4}
    return synth(
        package="functions",
        findings=True,
        control={},
        page=page,
        account_concurrency=1000,
        log_retention_days=14,
        monitoring={"email": "off"},
    )


@pytest.fixture(scope="module")
def template(done: Synthesised) -> Template:
    return done.templates["acme-control"]


def control_api(template: Template) -> str:
    found = templates.of_type(template, "AWS::ApiGatewayV2::Api").items()
    return next(logical_id for logical_id, api in found if api["Name"] == "acme-control")


def key_of_sessions(template: Template) -> str:
    ((logical_id, _),) = templates.of_type(template, "AWS::SecretsManager::Secret").items()
    return logical_id


def test_the_key_of_sessions_is_no_parameter_that_every_reader_may_read(template: Template) -> None:
    secret = templates.of_type(template, "AWS::SecretsManager::Secret")[key_of_sessions(template)]
    assert secret["GenerateSecretString"] == {"ExcludePunctuation": True, "PasswordLength": 64}
    assert {"Name", "SecretString"} & secret.keys() == set()


def test_the_role_may_do_exactly_what_the_page_needs(template: Template) -> None:
    # given the only role of the stack
    ((_, role),) = templates.of_type(template, "AWS::IAM::Role").items()
    (policy,) = role["Policies"]
    here = "${AWS::Region}:${AWS::AccountId}"
    # then
    found = [
        (statement["Effect"], statement["Action"], templates.target(template, resource))
        for statement in policy["PolicyDocument"]["Statement"]
        for resource in (statement["Resource"] if isinstance(statement["Resource"], list) else [statement["Resource"]])
    ]
    (logs,) = (
        logical_id
        for logical_id, group in templates.of_type(template, "AWS::Logs::LogGroup").items()
        if group["LogGroupName"] == "/aws/lambda/acme-page"
    )
    api = f"arn:${{AWS::Partition}}:execute-api:{here}:{control_api(template)}"
    assert found == [
        ("Allow", ["logs:CreateLogStream", "logs:PutLogEvents"], logs),
        *(
            ("Allow", "execute-api:Invoke", f"{api}/*/POST/{permission}/*")
            for permission in ("edit", "operate", "view")
        ),
        ("Allow", "secretsmanager:GetSecretValue", SECRET),
        ("Allow", "secretsmanager:GetSecretValue", key_of_sessions(template)),
    ]
    assert "ManagedPolicyArns" not in role
    assert [each["Principal"] for each in role["AssumeRolePolicyDocument"]["Statement"]] == [
        {"Service": "lambda.amazonaws.com"}
    ]


def test_the_control_function_knows_the_role_by_its_name(done: Synthesised, template: Template) -> None:
    ((_, role),) = templates.of_type(template, "AWS::IAM::Role").items()
    name = templates.target(template, role["RoleName"])
    assert name == "acme-page-${AWS::Region}"
    jobs = done.whole("acme-jobs")
    known = templates.target(jobs, templates.variables(jobs, "acme-control")["JOBLANE_PAGE_ROLE"])
    assert known == f"arn:${{AWS::Partition}}:sts::${{AWS::AccountId}}:assumed-role/{name}/"
    others = set(templates.functions(jobs)) - {"acme-control"}
    assert not [each for each in others if "JOBLANE_PAGE_ROLE" in templates.variables(jobs, each)]


def test_the_function_is_in_no_network_and_its_configuration_has_no_secret(template: Template) -> None:
    function = templates.functions(template)["acme-page"]
    assert "VpcConfig" not in function
    assert "Layers" not in function
    assert ANSWER_SECONDS < function["Timeout"] < 30
    assert function["ReservedConcurrentExecutions"] == 4
    ((name, value),) = function["Environment"]["Variables"].items()
    assert name == VARIABLE
    configuration = Configuration.of_text(templates.target(template, value))
    assert configuration.groups == {"view": ("readers",), "operate": ("ops",), "edit": ()}
    assert (configuration.client_secret, configuration.key_secret) == (SECRET, key_of_sessions(template))
    apis = templates.of_type(template, "AWS::ApiGatewayV2::Api")
    assert apis[configuration.control_url]["Name"] == "acme-control"
    assert apis[configuration.url]["Name"] == "acme-page"


def test_the_api_has_no_authorizer_but_is_limited_and_logged(template: Template) -> None:
    routes = templates.of_type(template, "AWS::ApiGatewayV2::Route").values()
    own = {route["RouteKey"]: route.get("AuthorizationType", "NONE") for route in routes}
    assert {key for key, kind in own.items() if kind == "NONE"} == {"GET /", "GET /{path+}", "POST /{path+}"}
    stages = templates.of_type(template, "AWS::ApiGatewayV2::Stage").values()
    assert all(stage["DefaultRouteSettings"]["ThrottlingRateLimit"] == 20 for stage in stages)
    assert all("path" not in json.loads(stage["AccessLogSettings"]["Format"]) for stage in stages)
    assert {group["RetentionInDays"] for group in templates.of_type(template, "AWS::Logs::LogGroup").values()} == {14}


def test_the_address_is_an_output_and_an_attribute(done: Synthesised, template: Template) -> None:
    assert "PageUrl" in template["Outputs"]
    ((_, parameter),) = templates.of_type(template, "AWS::SSM::Parameter").items()
    assert parameter["Value"] == template["Outputs"]["PageUrl"]["Value"]
    # and the texts of alarms read it, so that no export keeps the page from being removed
    assert done.jobs.page_url == f"{{{{resolve:ssm:{parameter['Name']}}}}}"
    assert f"{done.jobs.page_url}/" in json.dumps(done.templates["acme-monitoring"])
    assert "Fn::ImportValue" not in json.dumps(done.templates["acme-monitoring"])


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"issuer": "http://id.acme.test"}, "page.oidc.issuer: https:// and a host are required"),
        ({"issuer": "https://"}, "page.oidc.issuer: https:// and a host are required"),
        ({"issuer": "https://id.acme.test?x=1"}, "page.oidc.issuer: https:// and a host are required"),
        ({"client_id": ""}, "page.oidc.client_id: .*at least 1 character"),
        ({"client_secret": "s3cret"}, "page.oidc.client_secret: the whole ARN"),
        ({"roles": {}}, "page.oidc.roles: at least one group is required"),
        ({"roles": None}, "page.oidc.roles: an object is required"),
        ({"roles": {"operate": [""]}}, "page.oidc.roles.operate.0: .*at least 1 character"),
        ({"roles": {"admin": ["a"]}}, "page.oidc.roles.admin: Extra inputs"),
        ({"scopes": ["email"]}, "page.oidc.scopes: openid is required"),
        ({"session_hours": 48}, "page.oidc.session_hours: .*less than or equal to 24"),
        ({"colour": "red"}, "page.oidc.colour: Extra inputs"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(synth: Synth, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}") as refused:
        synth(control={}, page={"oidc": {**OIDC, **changes}})
    assert "s3cret" not in str(refused.value)


def test_what_is_missing_is_named(synth: Synth) -> None:
    for name in ("issuer", "client_id", "roles_claim", "roles"):
        with pytest.raises(StageError, match=rf"page\.oidc\.{name}: Field required"):
            synth(control={}, page={"oidc": {key: value for key, value in OIDC.items() if key != name}})
    with pytest.raises(StageError, match=r"page\.oidc: Field required"):
        synth(control={}, page={})
    with pytest.raises(StageError, match=r'page: "control": \{\} is required with it'):
        synth(page={"oidc": OIDC})
