"""`docs/how-to/own-domain.md` is run: its CDK code is synthesised and linted, and its authorizers are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from infra.app import APP
from joblane.cdk.app import Synthesised, context_of_file
from joblane.cdk.packaging import Packages
from joblane.local.tools import Tools
from joblane.project import Project
from tests.infra import templates
from tests.infra.conftest import OIDC, STAGES, TASKS
from tests.pages import ROOT, blocks

PAGE = ROOT / "docs" / "how-to" / "own-domain.md"
ADDRESS = "https://jobs.example.com"
FILES = {block.text.split("\n", 1)[0].removeprefix("# "): block.text for block in blocks("python", PAGE)}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, dict[str, Any]]:
    """File → its names. A file may import an earlier one."""
    found = dict[str, dict[str, Any]]()
    for name, code in FILES.items():
        if name.startswith("infra/"):
            names: dict[str, Any] = {"__name__": name.removesuffix(".py").replace("/", ".")}
            exec(compile(code, name, "exec"), names)
            found[name] = names
            monkeypatch.setitem(sys.modules, names["__name__"], _Module(names))
    return found


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


def lint(template: Path, region: str) -> None:
    program = str(Path(sys.executable).with_name("cfn-lint"))
    # W3005: as in test_app.py
    command = [program, "--ignore-checks", "W3005", "--regions", region, "--", str(template)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.fixture(params=["infra/address_filter.py", "infra/origin_key.py"])
def filtered(
    request: pytest.FixtureRequest, programs: Mapping[str, dict[str, Any]], no_packages: Packages, tmp_path: Path
) -> Synthesised:
    """A stage with the domain and one of the authorizers of the page."""
    name = request.param.removeprefix("infra/").removesuffix(".py")
    domain, guard = programs["infra/domain.py"]["add_domain"], programs[request.param][f"add_{name}"]
    return synthesise(tmp_path, no_packages, domain, guard)


def test_the_page_has_the_domain_alone_and_each_route_the_authorizer(filtered: Synthesised) -> None:
    template = filtered.templates["acme-control"]
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
    lint(filtered.directory / "acme-control.template.json", "eu-central-1")


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


def test_the_edge_is_synthesised_and_cfn_lint_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "edge.py").write_text(FILES["edge.py"])
    variables = {
        **os.environ,
        "PYTHONPATH": str(ROOT / "shared"),
        "JSII_NODE": str(Tools(Project(ROOT)).node),
        "JSII_RUNTIME_PACKAGE_CACHE_ROOT": str(ROOT / ".joblane" / "cache" / "jsii"),
        "CDK_OUTDIR": str(tmp_path / "out"),
    }
    done = subprocess.run(
        [sys.executable, "edge.py"], cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    path = tmp_path / "out" / "jobs-prod-edge.template.json"
    lint(path, "us-east-1")
    [distribution] = templates.of_type(json.loads(path.read_text()), "AWS::CloudFront::Distribution").values()
    [origin] = distribution["DistributionConfig"]["Origins"]
    [header] = origin["OriginCustomHeaders"]
    assert header["HeaderName"] == "x-origin-key"
    assert header["HeaderValue"].startswith("{{resolve:secretsmanager:jobs-prod/origin:")
