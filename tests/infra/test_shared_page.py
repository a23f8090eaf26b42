"""The function and the settings of the page that a team shares. The golden files have its other resources."""

from __future__ import annotations

import json
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.cdk.errors import StageError
from joblane.inspector.shared_page import VARIABLE, Configuration
from joblane.page.hosted.entry import ANSWER_SECONDS
from tests.infra import templates
from tests.infra.conftest import OIDC, PAGE_SECRET, Synth
from tests.infra.templates import Template


@pytest.fixture(scope="module")
def done(synth: Synth) -> Synthesised:
    return synth.app("apis")


@pytest.fixture(scope="module")
def template(done: Synthesised) -> Template:
    return done.templates["acme-control"]


def test_the_function_reads_its_configuration_which_has_no_secret(template: Template) -> None:
    function = templates.functions(template)["acme-page"]
    assert ANSWER_SECONDS < function["Timeout"] < 30
    (key,) = templates.of_type(template, "AWS::SecretsManager::Secret")
    ((name, value),) = function["Environment"]["Variables"].items()
    assert name == VARIABLE
    configuration = Configuration.of_text(templates.target(template, value))
    assert configuration.groups == {"view": ("readers",), "operate": ("ops",), "edit": ()}
    assert (configuration.client_secret, configuration.key_secret) == (PAGE_SECRET, key)
    apis = templates.of_type(template, "AWS::ApiGatewayV2::Api")
    assert apis[configuration.control_url]["Name"] == "acme-control"
    assert apis[configuration.url]["Name"] == "acme-page"


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
        ({"roles": {"admin": ["a"]}}, "page.oidc.roles.admin: there is no such setting here"),
        ({"scopes": ["email"]}, "page.oidc.scopes: openid is required"),
        ({"session_hours": 48}, "page.oidc.session_hours: .*less than or equal to 24"),
        ({"colour": "red"}, "page.oidc.colour: there is no such setting here"),
    ],
)
def test_a_wrong_setting_is_refused_by_its_name(synth: Synth, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(StageError, match=f"cdk.json: stage 'dev': {problem}") as refused:
        synth(control={}, page={"oidc": {**OIDC, **changes}})
    assert "s3cret" not in str(refused.value)


def test_what_is_missing_is_named(synth: Synth) -> None:
    for name in ("issuer", "client_id", "roles_claim", "roles"):
        with pytest.raises(StageError, match=rf"page\.oidc\.{name}: it is required"):
            synth(control={}, page={"oidc": {key: value for key, value in OIDC.items() if key != name}})
    with pytest.raises(StageError, match=r"page\.oidc: it is required"):
        synth(control={}, page={})
    with pytest.raises(StageError, match=r'page: "control": \{\} is required with it'):
        synth(page={"oidc": OIDC})


def test_an_address_of_your_own_is_that_of_the_page_and_of_alarms(synth: Synth) -> None:
    template = synth(control={}, page={"oidc": OIDC, "address": "https://jobs.acme.io"}).templates["acme-control"]
    ((name, value),) = templates.functions(template)["acme-page"]["Environment"]["Variables"].items()
    assert name == VARIABLE
    assert Configuration.of_text(templates.target(template, value)).url == "https://jobs.acme.io"
    ((_, parameter),) = templates.of_type(template, "AWS::SSM::Parameter").items()
    assert parameter["Value"] == template["Outputs"]["PageUrl"]["Value"] == "https://jobs.acme.io"


@pytest.mark.parametrize(
    "address",
    [
        *("http://jobs.acme.io", "https://jobs.acme.io/", "https://Jobs.acme.io", "https://", "jobs.acme.io"),
        *("https://jobs acme.io", "https://a..b", "https://.", "https://jobs.acme.io.", "https://jöbs.acme.io"),
        *("https://1.2.3.4", 'https://a."b.c', "https://jobs.acme.io:443", "https://-a.io"),
    ],
)
def test_an_address_that_is_none_is_refused(synth: Synth, address: str) -> None:
    with pytest.raises(StageError, match=r"page\.address: https:// and a host in lower case are required"):
        synth(control={}, page={"oidc": OIDC, "address": address})
