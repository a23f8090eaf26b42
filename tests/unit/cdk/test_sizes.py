"""Each limit of AWS that a growing stage reaches is refused with a sentence, and what is within it is not."""

from __future__ import annotations

import random
import string
from typing import Any

import pytest

from joblane.cdk.sizes import problems_of_size, resources_of
from joblane.cdk.templates import Template, stacks_of, whole
from joblane.worker.routes import decode, encode

TOPIC = {"Type": "AWS::SNS::Topic"}


def topics(number: int) -> dict[str, Any]:
    return {"Resources": {f"Topic{each}": TOPIC for each in range(number)}}


def role(**properties: Any) -> dict[str, Any]:
    function = {"FunctionName": "jobs-router", "Role": {"Fn::GetAtt": ["Role", "Arn"]}}
    return {
        "Resources": {
            "Role": {"Type": "AWS::IAM::Role", "Properties": properties},
            "Function": {"Type": "AWS::Lambda::Function", "Properties": function},
        }
    }


def sending(queues: int) -> dict[str, Any]:
    """A policy that names queues whose names have 35 characters."""
    begin = ["arn:", {"Ref": "AWS::Partition"}, ":sqs:", {"Ref": "AWS::Region"}, ":", {"Ref": "AWS::AccountId"}]
    names = [f":{number:035}" for number in range(queues)]
    resources = [{"Fn::Join": ["", [*begin, name]]} for name in names]
    return {"Statement": [{"Action": "sqs:SendMessage", "Effect": "Allow", "Resource": resources}]}


def problems(templates: dict[str, Template]) -> list[str]:
    return problems_of_size(templates, [whole(templates, stack) for stack in stacks_of(templates)])


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        (topics(500), None),
        (topics(501), "stack jobs: its template has 501 resources, and CloudFormation's limit is 500: declare fewer"),
        ({"Parameters": {str(each): {} for each in range(200)}}, None),
        ({"Parameters": {str(each): {} for each in range(201)}}, "its template has 201 parameters, and CloudFormat"),
        ({"Outputs": {str(each): {"Value": ""} for each in range(201)}}, "its template has 201 outputs, and CloudFo"),
        ({"Description": "x" * 999_900}, None),
        ({"Description": "x" * 1_000_000}, "its template has 1,000,022 bytes, and CloudFormation's limit is 1,000,000"),
        ({"Metadata": ["{{resolve:ssm:a}}"] * 61}, "its template has 61 references to secrets, and CloudFormation's"),
        (role(Policies=[{"PolicyDocument": sending(110)}]), None),
        (
            role(Policies=[{"PolicyDocument": sending(65)}, {"PolicyDocument": sending(65)}]),
            "function jobs-router: the policies of its role have 10,",
        ),
        (role(ManagedPolicyArns=["arn"] * 10), None),
        (
            role(ManagedPolicyArns=["arn"] * 11),
            "function jobs-router: its role has 11 managed policies, and IAM's limit",
        ),
        (
            {"Resources": {"Send": {"Type": "AWS::IAM::ManagedPolicy", "Properties": {"PolicyDocument": sending(80)}}}},
            "managed policy Send: it has 6,",
        ),
    ],
)
def test_a_limit_is_refused_with_what_reaches_it(template: dict[str, Any], problem: str | None) -> None:
    found = problems({"jobs": template})
    assert [problem in each for each in found] == [True] if problem else found == []


def test_policies_of_their_own_count_towards_their_role() -> None:
    template = role()
    for number in range(2):
        properties = {"Roles": [{"Ref": "Role"}], "PolicyDocument": sending(65)}
        template["Resources"][f"Policy{number}"] = {"Type": "AWS::IAM::Policy", "Properties": properties}
    (problem,) = problems({"jobs": template})
    assert problem.endswith('IAM\'s limit is 10,240: name fewer types in grants.enqueue, or all by "*"')
    variables = {"JOBLANE_PLACE": "web", "LONG": "x" * 4096}
    template["Resources"]["Function"]["Properties"]["Environment"] = {"Variables": variables}
    of_role, of_environment = problems({"jobs": template})
    assert of_role.endswith('or all by "*", or move types to another place')
    assert of_environment.endswith("LONG with 4100; move types to another place")


def test_nested_stacks_count_together_for_one_operation() -> None:
    # given six stacks, each within its own limit
    nested = {"Type": "AWS::CloudFormation::Stack", "Properties": {}}
    parts = {f"jobs/Part{part}": topics(499) for part in range(5)}
    for number, stack in enumerate(parts):
        parts[stack]["Resources"] = {f"{name}In{number}": TOPIC for name in parts[stack]["Resources"]}
    parent: dict[str, Any] = {"Resources": {f"Part{part}": nested for part in range(5)}}
    assert resources_of({"jobs": parent, **parts}, "jobs") == 2500
    assert problems({"jobs": parent, **parts}) == []
    # when there is one resource more
    parent["Resources"]["Topic"] = TOPIC
    # then the stack with its nested stacks is refused
    (problem,) = problems({"jobs": parent, **parts})
    assert problem.startswith(
        "stack jobs: it and its nested stacks have 2,501 resources, and CloudFormation creates at"
    )


# --- The routes of the router --------------------------------------------------------------------------------------


def test_the_routes_of_two_hundred_types_fit_into_an_environment() -> None:
    # given names of twenty characters that cannot be compressed
    names = random.Random(7)
    routes = {f"{_word(names, 9)}:{_word(names, 10)}": ["default"] for _ in range(200)}
    # then other variables have 400 bytes
    assert len(encode(routes)) < 4096 - 400
    assert decode(encode(routes)) == routes


def test_routes_keep_the_home_queue_of_each_type() -> None:
    routes = {"data:export": ["default", "critical"], "data:copy": ["critical", "default"], "user:invite": ["low"]}
    assert decode(encode(routes)) == routes
    assert decode(encode({})) == {}


def _word(names: random.Random, length: int) -> str:
    return "".join(names.choices(string.ascii_lowercase, k=length))
