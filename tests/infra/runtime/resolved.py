"""A stage's templates with fixed values in place of those that AWS fills in."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from tests.infra.runtime.runtime_api import ACCOUNT, REGION
from tests.infra.runtime.sandbox import Function
from tests.infra.templates import NAMES, Template

PSEUDO = {
    "AWS::AccountId": ACCOUNT,
    "AWS::NoValue": "",
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackId": f"arn:aws:cloudformation:{REGION}:{ACCOUNT}:stack/stack/1",
    "AWS::StackName": "stack",
    "AWS::URLSuffix": "amazonaws.com",
}
ARNS = {
    "AWS::IAM::ManagedPolicy": "arn:aws:iam::{account}:policy/{name}",
    "AWS::IAM::Role": "arn:aws:iam::{account}:role/{name}",
    "AWS::Lambda::Function": "arn:aws:lambda:{region}:{account}:function:{name}",
    "AWS::Logs::LogGroup": "arn:aws:logs:{region}:{account}:log-group:{name}:*",
    "AWS::S3::Bucket": "arn:aws:s3:::{name}",
    "AWS::SQS::Queue": "arn:aws:sqs:{region}:{account}:{name}",
}
"""Source: Service Authorization Reference, and CloudFormation's return values (a log group's ends in ``:*``)."""
ARN_BY_REF = ("AWS::IAM::ManagedPolicy", "AWS::SecretsManager::Secret", "AWS::SNS::Topic")
"""Types whose ``Ref`` is an ARN."""


class Resolved:
    """The templates of a stage, nested ones by ``STACK/LOGICAL_ID``. Names that AWS makes up are logical ids."""

    def __init__(self, templates: Mapping[str, Template]) -> None:
        self._templates = templates

    @cached_property
    def functions(self) -> dict[str, Function]:
        return {
            function.name: function
            for stack, _, properties in self._of_type("AWS::Lambda::Function")
            if (function := self._function(stack, properties))
        }

    @cached_property
    def policies(self) -> dict[str, list[Mapping[str, Any]]]:
        """Function → the statements of its role; and managed policy for other programs → its statements."""
        roles = {
            self.text(stack, properties["FunctionName"]): (stack, properties["Role"]["Fn::GetAtt"][0])
            for stack, _, properties in self._of_type("AWS::Lambda::Function")
        }
        found = {name: self._statements_of(*place) for name, place in roles.items()}
        for stack, id_, properties in self._of_type("AWS::IAM::ManagedPolicy"):
            found[self._name(stack, id_)] = self._statements(stack, properties)
        return found

    @cached_property
    def consumed(self) -> set[tuple[str, str]]:
        """Function, and the ARN of a queue from which Lambda receives messages for it."""
        return {
            (
                self.text(stack, properties["FunctionName"]).rpartition(":")[2],
                self.text(stack, properties["EventSourceArn"]),
            )
            for stack, _, properties in self._of_type("AWS::Lambda::EventSourceMapping")
        }

    def text(self, stack: str, value: Any) -> str:
        """Return the text of a property's value in a template."""
        if not isinstance(value, Mapping):
            return str(value)
        ((function, argument),) = value.items()
        match function:
            case "Ref":
                return self._reference(stack, argument)
            case "Fn::GetAtt":
                return self._attribute(stack, *(argument if isinstance(argument, list) else argument.split(".", 1)))
            case "Fn::Join":
                return str(argument[0]).join(self.text(stack, part) for part in argument[1])
            case "Fn::Sub":
                text, given = argument if isinstance(argument, list) else (argument, {})
                return re.sub(
                    r"\$\{([\w:.]+)\}",
                    lambda found: self.text(stack, given.get(found[1], {"Ref": found[1]})),
                    text,
                )
            case "Fn::ImportValue":
                return self._exported(self.text(stack, argument))
            case "Fn::Select":
                return self._list(stack, argument[1])[int(argument[0])]
        raise NotImplementedError(f"{stack}: {function}")

    def _function(self, stack: str, properties: Mapping[str, Any]) -> Function:
        variables = properties["Environment"]["Variables"]
        return Function(
            name=self.text(stack, properties["FunctionName"]),
            handler=properties["Handler"],
            timeout=properties["Timeout"],
            memory_mb=properties["MemorySize"],
            variables={name: self.text(stack, value) for name, value in variables.items()},
        )

    def _statements_of(self, stack: str, role: str) -> list[Mapping[str, Any]]:
        found = [
            statement
            for place, _, properties in self._of_type("AWS::IAM::Policy")
            if place == stack and {"Ref": role} in properties["Roles"]
            for statement in self._statements(place, properties)
        ]
        properties = self._templates[stack]["Resources"][role]["Properties"]
        for inline in properties.get("Policies", []):
            found += self._statements(stack, inline)
        arns = {self.text(stack, arn) for arn in properties.get("ManagedPolicyArns", [])}
        for place, id_, properties in self._of_type("AWS::IAM::ManagedPolicy"):
            if self.text(place, {"Ref": id_}) in arns:
                found += self._statements(place, properties)
        return found

    def _statements(self, stack: str, properties: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        return [self._all(stack, statement) for statement in properties["PolicyDocument"]["Statement"]]

    def _all(self, stack: str, value: Any) -> Any:
        """Return a value with every intrinsic function in it resolved."""
        if isinstance(value, list):
            return [self._all(stack, part) for part in value]
        if isinstance(value, Mapping):
            if len(value) == 1 and next(iter(value)).startswith(("Ref", "Fn::")):
                return self.text(stack, value)
            return {name: self._all(stack, part) for name, part in value.items()}
        return value

    def _reference(self, stack: str, name: str) -> str:
        template = self._templates[stack]
        if name in PSEUDO:
            return PSEUDO[name]
        if name in template["Resources"]:
            by_arn = template["Resources"][name]["Type"] in ARN_BY_REF
            return self._attribute(stack, name, "Arn") if by_arn else self._name(stack, name)
        parent, _, nested = stack.rpartition("/")
        if parent:  # a parameter of a nested stack
            return self.text(parent, self._templates[parent]["Resources"][nested]["Properties"]["Parameters"][name])
        return str(template["Parameters"][name]["Default"])

    def _attribute(self, stack: str, id_: str, attribute: str) -> str:
        resource = self._templates[stack]["Resources"][id_]
        if attribute.startswith("Outputs."):
            nested = f"{stack}/{id_}"
            return self.text(nested, self._templates[nested]["Outputs"][attribute.removeprefix("Outputs.")]["Value"])
        if attribute.endswith("Arn"):
            pattern = ARNS.get(resource["Type"], "arn:aws:other:{region}:{account}:{name}")
            return pattern.format(account=ACCOUNT, region=REGION, name=self._name(stack, id_))
        return f"{id_}.{attribute}"

    def _name(self, stack: str, id_: str) -> str:
        resource = self._templates[stack]["Resources"][id_]
        named = {**NAMES, "AWS::IAM::ManagedPolicy": "ManagedPolicyName", "AWS::S3::Bucket": "BucketName"}
        name = resource.get("Properties", {}).get(named.get(resource["Type"], ""))
        return self.text(stack, name) if name else id_.lower()

    def _exported(self, name: str) -> str:
        for stack, template in self._templates.items():
            for output in template.get("Outputs", {}).values():
                if output.get("Export", {}).get("Name") == name:
                    return self.text(stack, output["Value"])
        raise LookupError(f"no stack exports {name}")

    def _list(self, stack: str, value: Any) -> list[str]:
        if isinstance(value, list):
            return [self.text(stack, part) for part in value]
        separator, text = value["Fn::Split"]
        return self.text(stack, text).split(separator)

    def _of_type(self, kind: str) -> list[tuple[str, str, Mapping[str, Any]]]:
        return [
            (stack, id_, resource.get("Properties", {}))
            for stack, template in self._templates.items()
            for id_, resource in template["Resources"].items()
            if resource["Type"] == kind
        ]
