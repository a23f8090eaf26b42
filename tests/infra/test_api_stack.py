"""The HTTP API's routes, authorizers, limits and log, read from the template of the real tasks."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from functions.api.access import ROUTES
from functions.api.app import app
from functions.api.document import document
from infra.settings import Api
from joblane.cdk.app import Synthesised
from joblane.cdk.errors import StageError
from joblane.cdk.templates import stacks_of
from tests.infra import templates
from tests.infra.conftest import Synth
from tests.infra.templates import Template
from tests.pages import ROOT

ISSUER = "https://id.example.com/"
JWT: dict[str, Any] = {
    "authorizer": {"kind": "jwt", "issuer": ISSUER, "audience": ["web", "phone"]},
    "rate_per_second": 7,
    "burst": 9,
    "cors_origins": ["https://app.example.com", "http://localhost:3000"],
}
IAM: dict[str, Any] = {"authorizer": {"kind": "iam"}}


@pytest.fixture(scope="module")
def by_jwt(synth: Synth) -> Synthesised:
    return synth(
        package="functions", api={**JWT, "max_concurrency": 12}, account_concurrency=1000, log_retention_days=14
    )


@pytest.fixture(scope="module")
def by_iam(synth: Synth) -> Synthesised:
    return synth(package="functions", api=IAM, removal="destroy")


@pytest.fixture(scope="module", params=["by_jwt", "by_iam"])
def either(request: pytest.FixtureRequest) -> Synthesised:
    done: Synthesised = request.getfixturevalue(request.param)
    return done


@pytest.fixture(scope="module")
def template(by_jwt: Synthesised) -> Template:
    return by_jwt.templates["acme-api"]


def only(template: Template, kind: str) -> tuple[str, Any]:
    ((logical_id, properties),) = templates.of_type(template, kind).items()
    return logical_id, properties


# --- Routes --------------------------------------------------------------------------------------------------------


def test_the_routes_are_those_of_the_table_and_no_other(either: Synthesised) -> None:
    routes = templates.of_type(either.templates["acme-api"], "AWS::ApiGatewayV2::Route").values()
    assert sorted(route["RouteKey"] for route in routes) == sorted(ROUTES)


def test_every_route_goes_to_the_apis_function_as_payload_format_2(either: Synthesised) -> None:
    template = either.templates["acme-api"]
    logical_id, integration = only(template, "AWS::ApiGatewayV2::Integration")
    assert integration["IntegrationType"] == "AWS_PROXY"
    assert integration["PayloadFormatVersion"] == "2.0"
    assert exported(either, integration["IntegrationUri"]) == "acme-api"
    for route in templates.of_type(template, "AWS::ApiGatewayV2::Route").values():
        assert templates.target(template, route["Target"]) == f"integrations/{logical_id}"


def test_the_functions_timeout_is_below_that_of_api_gateway(by_jwt: Synthesised) -> None:
    function = templates.functions(by_jwt.whole("acme-jobs"))["acme-api"]
    _, integration = only(by_jwt.templates["acme-api"], "AWS::ApiGatewayV2::Integration")
    assert function["Timeout"] * 1000 < integration.get("TimeoutInMillis", 30_000)


def test_this_api_and_no_other_may_call_the_function(either: Synthesised) -> None:
    template = either.templates["acme-api"]
    api, _ = only(template, "AWS::ApiGatewayV2::Api")
    _, permission = only(template, "AWS::Lambda::Permission")
    assert permission["Action"] == "lambda:InvokeFunction"
    assert permission["Principal"] == "apigateway.amazonaws.com"
    assert exported(either, permission["FunctionName"]) == "acme-api"
    source = templates.target(template, permission["SourceArn"])
    assert source == f"arn:${{AWS::Partition}}:execute-api:${{AWS::Region}}:${{AWS::AccountId}}:{api}/*/*/*"
    assert not templates.of_type(either.whole("acme-jobs"), "AWS::Lambda::Permission")


def exported(done: Synthesised, value: Any) -> str:
    """Return the name of the function in the jobs stack that an import refers to."""
    jobs = done.whole("acme-jobs")
    found = {output["Export"]["Name"]: output["Value"] for output in jobs["Outputs"].values() if "Export" in output}
    return templates.target(jobs, found[value["Fn::ImportValue"]])


# --- Authorizers ---------------------------------------------------------------------------------------------------


def test_every_route_requires_a_token_of_the_issuer_for_one_of_the_audiences(template: Template) -> None:
    authorizer_id, authorizer = only(template, "AWS::ApiGatewayV2::Authorizer")
    assert authorizer["AuthorizerType"] == "JWT"
    assert authorizer["IdentitySource"] == ["$request.header.Authorization"]
    assert authorizer["JwtConfiguration"] == {"Issuer": ISSUER, "Audience": ["web", "phone"]}
    for route in templates.of_type(template, "AWS::ApiGatewayV2::Route").values():
        assert route["AuthorizationType"] == "JWT"
        assert route["AuthorizerId"] == {"Ref": authorizer_id}


def test_every_route_requires_a_signature_with_the_iam_authorizer(by_iam: Synthesised) -> None:
    template = by_iam.templates["acme-api"]
    assert not templates.of_type(template, "AWS::ApiGatewayV2::Authorizer")
    routes = templates.of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert {route["AuthorizationType"] for route in routes} == {"AWS_IAM"}


def test_cors_allows_only_the_origins_methods_and_headers_of_the_api(template: Template) -> None:
    _, api = only(template, "AWS::ApiGatewayV2::Api")
    cors = api["CorsConfiguration"]
    assert cors["AllowOrigins"] == JWT["cors_origins"]
    assert sorted(cors["AllowMethods"]) == sorted({route.split()[0] for route in ROUTES})
    assert sorted(cors["AllowHeaders"]) == sorted({"Authorization", "Content-Type", *headers_of_the_document()})
    assert cors["ExposeHeaders"] == ["Retry-After"]
    assert "AllowCredentials" not in cors
    assert "*" not in json.dumps(cors)


def headers_of_the_document() -> set[str]:
    operations = [operation for path in document(app())["paths"].values() for operation in path.values()]
    parameters = [parameter for operation in operations for parameter in operation.get("parameters", [])]
    return {parameter["name"] for parameter in parameters if parameter["in"] == "header"}


def test_cors_preflights_are_answered_by_api_gateway_without_a_token(template: Template) -> None:
    routes = templates.of_type(template, "AWS::ApiGatewayV2::Route").values()
    assert not [route["RouteKey"] for route in routes if route["RouteKey"].startswith(("OPTIONS ", "ANY ", "$"))]


def test_without_origins_there_is_no_cors(by_iam: Synthesised) -> None:
    _, api = only(by_iam.templates["acme-api"], "AWS::ApiGatewayV2::Api")
    assert "CorsConfiguration" not in api


# --- Limits and log ------------------------------------------------------------------------------------------------


def test_the_stage_of_the_api_is_throttled_as_set_and_deploys_automatically(template: Template) -> None:
    _, stage = only(template, "AWS::ApiGatewayV2::Stage")
    assert (stage["StageName"], stage["AutoDeploy"]) == ("$default", True)
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": 7, "ThrottlingBurstLimit": 9}


def test_throttling_has_a_default(by_iam: Synthesised) -> None:
    _, stage = only(by_iam.templates["acme-api"], "AWS::ApiGatewayV2::Stage")
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": 50, "ThrottlingBurstLimit": 100}


def test_the_access_log_has_the_stages_retention_and_removal(by_jwt: Synthesised, by_iam: Synthesised) -> None:
    for done, days, removal in ((by_jwt, 14, "RetainExceptOnCreate"), (by_iam, 30, "Delete")):
        template = done.templates["acme-api"]
        (group,) = (item for item in template["Resources"].values() if item["Type"] == "AWS::Logs::LogGroup")
        assert group["Properties"]["LogGroupName"] == "/aws/vendedlogs/apis/acme-api"
        assert group["Properties"]["RetentionInDays"] == days
        assert group["DeletionPolicy"] == removal
        _, stage = only(template, "AWS::ApiGatewayV2::Stage")
        destination = stage["AccessLogSettings"]["DestinationArn"]
        assert templates.target(template, destination) == "/aws/vendedlogs/apis/acme-api"


def test_a_line_of_the_access_log_is_json_without_values_of_the_sender(template: Template) -> None:
    _, stage = only(template, "AWS::ApiGatewayV2::Stage")
    line = json.loads(stage["AccessLogSettings"]["Format"])
    assert line["route"] == "$context.routeKey"
    assert line["status"] == "$context.status"
    # every value is a variable whole, and none of what holds a path, a query, a header, a claim or a sender's words
    assert all(re.fullmatch(r"\$context\.[A-Za-z.]+", value) for value in line.values())
    written_by_the_sender = ("path", "authorizer", "useragent", "domain", "querystring", "accesskey", "caller", "user")
    assert not [value for value in line.values() if any(word in value.lower() for word in written_by_the_sender)]


@pytest.mark.parametrize("name", ["by_jwt", "by_iam"])
def test_max_concurrency_is_reserved_only_for_the_apis_function(name: str, request: pytest.FixtureRequest) -> None:
    done: Synthesised = request.getfixturevalue(name)
    reserved = {
        function: properties["ReservedConcurrentExecutions"]
        for function, properties in templates.functions(done.whole("acme-jobs")).items()
        if "ReservedConcurrentExecutions" in properties
    }
    assert reserved == ({"acme-api": 12} if name == "by_jwt" else {})


def test_the_apis_address_is_an_output(template: Template) -> None:
    api, _ = only(template, "AWS::ApiGatewayV2::Api")
    assert template["Outputs"]["ApiUrl"]["Value"] == {"Fn::GetAtt": [api, "ApiEndpoint"]}


# --- Settings ------------------------------------------------------------------------------------------------------


def test_a_stage_without_the_settings_has_no_api(dev: Synthesised) -> None:
    assert stacks_of(dev.templates) == ["acme-data", "acme-jobs"]


def test_an_api_without_a_function_is_refused(synth: Synth) -> None:
    with pytest.raises(StageError, match=r"stage 'dev': api: there is no function 'api' .*; leave it out"):
        synth(api=JWT)


@pytest.mark.parametrize(
    ("api", "problem"),
    [
        ({}, "api.authorizer: Field required"),
        ({"authorizer": {"kind": "none"}}, "api.authorizer: .*'jwt', 'iam'"),
        ({"authorizer": {"kind": "jwt", "audience": ["web"]}}, "api.authorizer.issuer: Field required"),
        ({"authorizer": {**JWT["authorizer"], "issuer": "http://id.example.com"}}, "api.authorizer.issuer: "),
        ({"authorizer": {**JWT["authorizer"], "audience": []}}, "api.authorizer.audience: 1 at least"),
        ({**JWT, "rate_per_second": 0}, "api.rate_per_second: .*greater than or equal to 1"),
        ({**JWT, "burst": 0}, "api.burst: .*greater than or equal to 1"),
        ({**JWT, "cors_origins": ["*"]}, r"api.cors_origins.0: .*https://HOST or https://HOST:PORT is required"),
        ({**JWT, "cors_origins": ["https://*.example.com"]}, "api.cors_origins.0: .*https://HOST or "),
        ({**JWT, "cors_origins": ["https://app.example.com/"]}, "api.cors_origins.0: .*https://HOST or "),
        ({**JWT, "cors_origins": ["http://app.example.com"]}, "api.cors_origins.0: .*http:// is only for localhost"),
        ({**IAM, "cors_origins": ["https://app.example.com"]}, "api: .*cors_origins: .*use authorizer jwt"),
        ({**JWT, "max_concurrency": 0}, "api.max_concurrency: .*greater than or equal to 1"),
        ({**JWT, "max_concurrency": 5}, "api.max_concurrency: 0 at most is required, .* the 50 of account_concurrency"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(api: dict[str, Any], problem: str, synth: Synth) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}"):
        synth(api=api)


def test_a_reservation_leaves_lambdas_unreserved_concurrency(synth: Synth) -> None:
    done = synth(package="functions", api={**JWT, "max_concurrency": 20}, account_concurrency=120)
    function = templates.functions(done.whole("acme-jobs"))["acme-api"]
    assert function["ReservedConcurrentExecutions"] == 20
    with pytest.raises(StageError, match=r"api\.max_concurrency: 20 at most is required"):
        synth(api={**JWT, "max_concurrency": 21}, account_concurrency=120)


def test_the_docs_show_all_settings_and_no_other() -> None:
    text = (ROOT / "docs" / "platform" / "api.md").read_text()
    shown = re.search(r'```json\n(\{\n  "api": .*?)```', text, re.S)
    assert shown is not None
    assert Api.model_validate(json.loads(shown[1])["api"]).model_fields_set == set(Api.model_fields)
