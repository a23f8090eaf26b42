"""The HTTP API's routes, headers and settings. The golden files have its other resources."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from functions.api.access import PUBLIC, ROUTES
from functions.api.app import app
from functions.api.document import document
from infra.settings import Api
from joblane.cdk.app import Synthesised
from joblane.cdk.errors import StageError
from joblane.cdk.templates import stacks_of
from tests.infra import templates
from tests.infra.conftest import JWT, Synth
from tests.pages import ROOT

IAM: dict[str, Any] = {"authorizer": {"kind": "iam"}}


# --- Routes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["apis", "signed"])
def test_the_routes_are_those_of_the_table_and_no_other(name: str, synth: Synth) -> None:
    routes = templates.of_type(synth.app(name).templates["acme-api"], "AWS::ApiGatewayV2::Route").values()
    signals = PUBLIC if name == "apis" else ()  # the one with JOBLANE_SIGNAL_KEYS
    assert sorted(route["RouteKey"] for route in routes) == sorted([*ROUTES, *signals])


# --- Authorizers ---------------------------------------------------------------------------------------------------


def test_cors_allows_only_the_origins_methods_and_headers_of_the_api(synth: Synth) -> None:
    (api,) = templates.of_type(synth.app("apis").templates["acme-api"], "AWS::ApiGatewayV2::Api").values()
    cors = api["CorsConfiguration"]
    assert sorted(cors["AllowMethods"]) == sorted({route.split()[0] for route in ROUTES})
    assert sorted(cors["AllowHeaders"]) == sorted({"Authorization", "Content-Type", *headers_of_the_document()})


def headers_of_the_document() -> set[str]:
    operations = [operation for path in document(app())["paths"].values() for operation in path.values()]
    parameters = [parameter for operation in operations for parameter in operation.get("parameters", [])]
    return {parameter["name"] for parameter in parameters if parameter["in"] == "header"}


# --- Settings ------------------------------------------------------------------------------------------------------


def test_a_stage_without_the_settings_has_no_api(dev: Synthesised) -> None:
    assert stacks_of(dev.templates) == ["acme-data", "acme-jobs"]


def test_an_api_without_a_function_is_refused(synth: Synth) -> None:
    with pytest.raises(StageError, match=r"stage 'dev': api: there is no function 'api' .*; leave it out"):
        synth(api=JWT)


@pytest.mark.parametrize(
    ("api", "problem"),
    [
        ({}, "api.authorizer: it is required"),
        ({"authorizer": {"kind": "none"}}, "api.authorizer: .*'jwt', 'iam'"),
        ({"authorizer": {"kind": "jwt", "audience": ["web"]}}, "api.authorizer.issuer: it is required"),
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
