"""A permissions boundary from the context of the CDK: every role has it, and the page's policy has what they need."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest

from infra.app import APP
from joblane.cdk.app import Synthesised, context_of_file
from joblane.cdk.packaging import Packages
from joblane.project import Project
from tests.infra.conftest import APPS, DATABASE_URL, OIDC, STAGES, TASKS

PAGE = Path(__file__).parents[2] / "docs/how-to/deploy-from-ci.md"
CONTEXT = "@aws-cdk/core:permissionsBoundary"
BOUNDARY = "arn:${AWS::Partition}:iam::${AWS::AccountId}:policy/cdk-hnb659fds-jobs"
"""ARN of the policy with the name in the context, for the default bootstrap."""
PRINCIPALS = ("AWS::IAM::Role", "AWS::IAM::User")
POLICIES = (*PRINCIPALS, "AWS::IAM::Policy", "AWS::IAM::ManagedPolicy")


PARAMETER = "arn:aws:ssm:eu-central-1:111122223333:parameter/page"
BOUNDED: Mapping[str, Mapping[str, Any]] = {
    "own_keys": {**APPS["own_keys"], "page": {"oidc": {**OIDC, "client_secret": PARAMETER}}},
    "apis": APPS["apis"],
    "imaged": APPS["imaged"],
    "events": {
        **APPS["events"],
        "network": APPS["nat_instance"]["network"],
        "database": APPS["rds"]["database"],
        "monitoring": APPS["watched"]["monitoring"],
    },
    "local": APPS["local"],
}
"""Arguments as in :data:`APPS`: networks, a NAT instance, APIs, a webhook, images, Slack and the migration of each
database."""


@pytest.fixture(scope="module")
def apps(no_packages: Packages, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Synthesised]:
    """The apps of :data:`BOUNDED`, with the boundary in their context."""
    found = {}
    for name, arguments in BOUNDED.items():
        given = dict(arguments)
        package, stage = given.pop("package", TASKS), given.pop("stage", "dev")
        found[name] = replace(APP, functions=package).synthesise(
            {
                **context_of_file(Project.here()),
                "stage": stage,
                "stages": {stage: {**STAGES[stage], **given}},
                CONTEXT: {"name": "cdk-${Qualifier}-jobs"},
            },
            output=tmp_path_factory.mktemp(name),
            environ={"DATABASE_URL": DATABASE_URL},
            build=lambda stage, project: no_packages,
            findings=False,
        )
    return found


@pytest.fixture(params=BOUNDED)
def bounded(request: pytest.FixtureRequest, apps: dict[str, Synthesised]) -> Synthesised:
    return apps[request.param]


def resources(done: Synthesised, *kinds: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, template in done.templates.items():  # with those of nested stacks
        for logical_id, resource in template["Resources"].items():
            if resource["Type"] in kinds:
                yield f"{name}/{logical_id}", resource.get("Properties", {})


def text(value: Any) -> str:
    match value:
        case {"Fn::Join": ["", parts]}:
            return "".join(map(text, parts))
        case {"Ref": name}:
            return f"${{{name}}}"
    return str(value)


def unbounded(done: Synthesised) -> list[str]:
    """Return the roles and users without this boundary."""
    return [
        place for place, found in resources(done, *PRINCIPALS) if text(found.get("PermissionsBoundary")) != BOUNDARY
    ]


def test_every_role_and_user_of_every_template_has_the_boundary(bounded: Synthesised) -> None:
    roles = [place for place, _ in resources(bounded, *PRINCIPALS)]
    assert any("/" in place.partition("/")[2] for place in roles) is not bounded.stage.local  # in nested stacks, too
    assert unbounded(bounded) == []


def test_a_role_without_the_boundary_is_found(bounded: Synthesised) -> None:
    copy = replace(bounded, templates=json.loads(json.dumps(bounded.templates)))
    place, properties = [*resources(copy, *PRINCIPALS)][-1]
    del properties["PermissionsBoundary"]
    assert unbounded(copy) == [place]


def statements(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        if value.get("Effect") == "Allow" and "Resource" in value:
            yield value
        value = list(value.values())
    for inner in value if isinstance(value, list) else ():
        yield from statements(inner)


def used(done: Synthesised) -> set[str]:
    """Return the actions that the policies of the app's roles allow. Other managed policies are for your own roles."""
    found = set()
    for kind in POLICIES:
        for place, properties in resources(done, kind):
            if kind != "AWS::IAM::ManagedPolicy" or "NetworkInterfaces" in place:
                for statement in statements(properties):
                    actions = statement["Action"]
                    found |= {actions} if isinstance(actions, str) else set(actions)
    return found


@pytest.fixture(scope="module")
def of_page() -> list[str]:
    """The actions of the policy in the page."""
    section = PAGE.read_text().split("\n## Set a permissions boundary\n")[1]
    found = re.search(r"```json\n(.*?)```", section, re.DOTALL)
    assert found
    (statement,) = json.loads(found[1])["Statement"]
    assert (statement["Effect"], statement["Resource"]) == ("Allow", "*")
    return list(statement["Action"])


def test_the_policy_of_the_page_allows_what_the_roles_need(bounded: Synthesised, of_page: list[str]) -> None:
    assert [action for action in sorted(used(bounded)) if not any(fnmatchcase(action, each) for each in of_page)] == []


def test_the_policy_of_the_page_allows_nothing_that_no_role_needs(
    apps: dict[str, Synthesised], of_page: list[str]
) -> None:
    actions = set[str]().union(*map(used, apps.values()))
    assert [each for each in of_page if not any(fnmatchcase(action, each) for action in actions)] == []


def test_a_name_with_the_region_is_refused_by_the_cdk_as_the_page_says(no_packages: Packages, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="includes a pseudo parameter, which is not supported"):
        APP.synthesise(
            {"stage": "dev", "stages": {"dev": STAGES["dev"]}, CONTEXT: {"name": "jobs-${AWS::Region}"}},
            output=tmp_path,
            environ={},
            build=lambda stage, project: no_packages,
        )
    assert "${AWS::Region}" in PAGE.read_text().split("\n## Set a permissions boundary\n")[1]
