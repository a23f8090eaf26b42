"""`docs/how-to/own-domain.md` is run: its CDK code is synthesised and linted, and its authorizers are called.

So is the layer of `docs/how-to/trace.md`, in the same synthesis.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import aws_cdk
import boto3
import pytest
from moto import mock_aws

from infra.app import APP
from joblane.cdk.app import Synthesised, context_of_file
from joblane.cdk.packaging import Packages
from joblane.project import Project
from tests.infra import templates
from tests.infra.conftest import OIDC, STAGES, TASKS
from tests.infra.lint import lint
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "own-domain.md"
TRACE = ROOT / "docs" / "how-to" / "trace.md"
TRACED = "order:ship"
CONTROL, EDGE = "acme-control", "jobs-prod-edge.template.json"
ADDRESS = "https://jobs.example.com"
FILES = {block.text.split("\n", 1)[0].removeprefix("# "): block.text for block in blocks("python", PAGE)}


@pytest.fixture(scope="module")
def programs() -> Iterator[Mapping[str, dict[str, Any]]]:
    """File → its names. A file may import an earlier one."""
    found = dict[str, dict[str, Any]]()
    with pytest.MonkeyPatch.context() as monkeypatch:
        for name in FILES:
            if name.startswith("infra/"):
                found[name] = executed(name)
                monkeypatch.setitem(sys.modules, found[name]["__name__"], _Module(found[name]))
        yield found


def executed(file: str) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": file.removesuffix(".py").replace("/", ".")}
    exec(compile(FILES[file], file, "exec"), names)
    return names


class _Module:
    def __init__(self, names: Mapping[str, Any]) -> None:
        self.__dict__.update(names)


def synthesise(folder: Path, packages: Packages, *functions: Any) -> Synthesised:
    page = {"oidc": OIDC, "address": ADDRESS}
    return replace(APP, functions=TASKS, stacks=functions).synthesise(
        context_of_file(Project.here())
        | {"stage": "dev", "stages": {**STAGES, "dev": {**STAGES["dev"], "control": {}, "page": page}}},
        output=folder / "assembly",
        environ={},
        build=lambda stage, project: packages,
    )


@pytest.fixture(scope="module", params=["infra/address_filter.py", "infra/origin_key.py"])
def filtered(
    request: pytest.FixtureRequest,
    programs: Mapping[str, dict[str, Any]],
    no_packages: Packages,
    tmp_path_factory: pytest.TempPathFactory,
) -> Synthesised:
    """A stage with the domain and one of the authorizers of the page."""
    name = request.param.removeprefix("infra/").removesuffix(".py")
    domain, guard = programs["infra/domain.py"]["add_domain"], programs[request.param][f"add_{name}"]
    return synthesise(tmp_path_factory.mktemp(name), no_packages, domain, guard, layer_of_page())


def layer_of_page() -> Any:
    [block] = [block for block in blocks("python", TRACE) if block.mark == "construct"]
    names: dict[str, Any] = {"__name__": "infra.app"}
    exec(compile(block.text, str(TRACE), "exec", dont_inherit=True), names)
    names["TRACED"] = [TRACED]
    return names["add_layer"]


def test_the_functions_that_the_page_names_have_the_layer_of_opentelemetry(filtered: Synthesised) -> None:
    functions = filtered.whole("acme-jobs")
    found = {
        each["FunctionName"]: each
        for each in templates.of_type(functions, "AWS::Lambda::Function").values()
        if "AWS_LAMBDA_EXEC_WRAPPER" in each["Environment"]["Variables"]
    }
    assert list(found) == ["acme-order-ship"]
    [function] = found.values()
    assert len(function["Layers"]) == 2
    assert "AWSOpenTelemetryDistroPython" in str(function["Layers"][1])
    assert function["TracingConfig"] == {"Mode": "Active"}
    assert function["Environment"]["Variables"]["JOBLANE_OTEL"] == "1"


def test_the_page_has_the_domain_alone_and_each_route_the_authorizer(filtered: Synthesised) -> None:
    template = filtered.templates[CONTROL]
    [(page, api)] = [
        (name, each)
        for name, each in templates.of_type(template, "AWS::ApiGatewayV2::Api").items()
        if each["Name"] == "acme-page"
    ]
    assert api["DisableExecuteApiEndpoint"] is True
    [mapping] = templates.of_type(template, "AWS::ApiGatewayV2::ApiMapping").values()
    [domain] = templates.of_type(template, "AWS::ApiGatewayV2::DomainName").values()
    assert (mapping["ApiId"], mapping["Stage"]) == ({"Ref": page}, "$default")
    assert f"https://{domain['DomainName']}" == ADDRESS == template["Outputs"]["PageUrl"]["Value"]
    # and the control API keeps its own authorizer
    [(authorizer, _)] = templates.of_type(template, "AWS::ApiGatewayV2::Authorizer").items()
    routes = templates.of_type(template, "AWS::ApiGatewayV2::Route").values()
    found = {
        templates.target(template, route["ApiId"]): {
            (each["AuthorizationType"], str(each.get("AuthorizerId")))
            for each in routes
            if each["ApiId"] == route["ApiId"]
        }
        for route in routes
    }
    assert found.pop(page) == {("CUSTOM", str({"Ref": authorizer}))}
    assert [*found.values()] == [{("AWS_IAM", "None")}]


def test_cfn_lint_finds_nothing_in_the_stack_with_the_domain(filtered: Synthesised) -> None:
    assert lint([filtered.directory / f"{CONTROL}.template.json"]) == {f"{CONTROL}.template.json": []}


@pytest.mark.parametrize(
    ("address", "allowed"), [("192.0.2.7", True), ("192.0.3.7", False), ("2001:db8::1", True), ("::1", False)]
)
def test_the_authorizer_compares_the_address(
    programs: Mapping[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, *, address: str, allowed: bool
) -> None:
    program, code = programs["infra/address_filter.py"], dict[str, Any]()
    monkeypatch.setenv("NETWORKS", program["NETWORKS"])
    exec(program["CODE"], code)
    event = {"requestContext": {"http": {"sourceIp": address}}}
    assert code["handler"](event, None) == {"isAuthorized": allowed}


@mock_aws
def test_the_authorizer_compares_the_key_of_cloudfront(
    programs: Mapping[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    program, code = programs["infra/origin_key.py"], dict[str, Any]()
    monkeypatch.setenv("SECRET", program["SECRET"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    boto3.client("secretsmanager").create_secret(Name=program["SECRET"], SecretString="k3y")
    exec(program["CODE"], code)
    for key, allowed in (("k3y", True), ("k3", False), ("ké", False)):
        assert code["handler"]({"headers": {"x-origin-key": key}}, None) == {"isAuthorized": allowed}


def test_the_edge_is_synthesised_and_cfn_lint_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aws_cdk, "App", partial(aws_cdk.App, outdir=str(tmp_path)))  # the CDK CLI sets it, too
    executed("edge.py")
    assert lint([tmp_path / EDGE], ["us-east-1"]) == {EDGE: []}
    template = json.loads((tmp_path / EDGE).read_text())
    [distribution] = templates.of_type(template, "AWS::CloudFront::Distribution").values()
    [origin] = distribution["DistributionConfig"]["Origins"]
    [header] = origin["OriginCustomHeaders"]
    assert header["HeaderName"] == "x-origin-key"
    assert header["HeaderValue"].startswith("{{resolve:secretsmanager:jobs-prod/origin:")
