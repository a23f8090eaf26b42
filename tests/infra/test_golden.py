"""The templates of :data:`~tests.infra.conftest.APPS` are those in ``golden/``, which are reviewed as diffs.

A file has what is its app's own: resources as ``TYPE LOGICAL_ID`` with their properties, of whole stacks or only those
that a pattern finds. References are ``${LOGICAL_ID}`` or ``${LOGICAL_ID.Attribute}``, and ``here:sqs:`` begins an ARN
of this account and region. What differs between checkouts is left out, and so are tags and ``UpdateReplacePolicy``,
which have rules in ``test_rules.py``. ``pytest --golden=write tests/infra/test_golden.py`` writes the files again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.app import Synthesised
from joblane.worker.routes import decode
from tests.golden import golden
from tests.infra.conftest import Synth

FOLDER = Path(__file__).parent / "golden"
NETWORK = "EC2|Interfaces|Custom::Migration"
SHOWN: Mapping[str, Mapping[str, str]] = {
    "dev": {"data": "", "jobs": ""},
    "local": {"data": "", "jobs": ""},
    "ipv6": {"data": "", "jobs": f"{NETWORK}|VpcConfig|FunctionRole"},
    "asleep": {"data": "RDS|Gateway|Logs|S3::Bucket", "monitoring": "Alarm Database"},
    "robust": {"data": "", "jobs": NETWORK},
    "rds": {"data": "", "jobs": "Custom::Migration|FunctionRole", "monitoring": "AWS/RDS"},
    "restored": {"data": "RDS", "jobs": "Custom::Migration|FunctionRole"},
    "nat_instance": {
        "data": "EC2::(Instance|LaunchTemplate|Route |SecurityGroup |.*Gateway)|Alarm",
        "jobs": "Lambda::Function ordership",
    },
    "endpoints": {"data": "Endpoint|Group"},
    "none": {"data": "EC2.*(Endpoint|Group)"},
    "subnets": {"data": "", "jobs": f"{NETWORK}|ordership"},
    "watched": {"monitoring": "^(?!AWS::CloudWatch::Dashboard)"},
    "events": {
        "jobs": "AWS::Events|EventsWebhook|PutEvents",
        "monitoring": "::(Alarm|Dashboard|Topic|Subscription|Key)",
    },
    "apis": {"api": "", "control": "", "jobs": "Jobscontrol|Jobsapi"},
    "own_keys": {
        "data": "RDS::DB|S3::Bucket|Logs",
        "jobs": "(Queue|Policy|Role)(Policy)? (Jobs(FrontDoorLow|Router)|jobssweep)",
        "control": "Kms|kms",
        "monitoring": "SNS|KMS",
    },
    "signed": {"api": "::(Api|Stage|Authorizer|LogGroup)"},
}
"""App → its stacks without their prefix → pattern of the resources. An empty pattern shows all, and the outputs."""
LEFT_OUT = ("JOBLANE_DEPLOY", "Metadata", "Path", "Tags", "UpdateReplacePolicy", "Version")
WIDTH = 110
HASH = re.compile(r"[0-9a-f]{64}")
HERE = re.compile(r"arn:\$\{AWS::Partition\}:([a-z0-9-]+):\$\{AWS::Region\}:\$\{AWS::AccountId\}:")


def readable(value: Any) -> Any:
    match value:
        case {"Ref": str(name)}:
            return f"${{{name}}}"
        case {"Fn::GetAtt": [name, attribute]}:
            return f"${{{name}.{attribute}}}"
        case {"Fn::Join": ["", parts]}:
            return HERE.sub(r"here:\1:", "".join(map(str, readable(parts))))
        case {"Fn::ImportValue": name}:
            return f"import {name}"
        case dict():
            return {key: readable(item) for key, item in value.items() if key not in LEFT_OUT}
        case list():
            return [readable(item) for item in value]
        case str():
            return HASH.sub("HASH", value)
    return value


def shown(resource: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what the golden file has of a resource."""
    properties = {**resource, **resource.get("Properties", {})}
    match properties:
        case {"DashboardBody": str(body)}:
            properties["DashboardBody"] = json.loads(body)
        case {"Environment": {"Variables": {"JOBLANE_ROUTES": str(routes)} as variables}}:
            properties["Environment"] = {**variables, "JOBLANE_ROUTES": decode(routes)}
        case {"Type": "Custom::Migration"}:
            del properties["By"]
    return {key: properties[key] for key in properties.keys() - {"Type", "Properties"}}


def lines_of(title: str, value: Any) -> Iterator[str]:
    """Yield one line, if the value fits into it, else a line of the title and then its parts."""
    if isinstance(value, str) and "\n" in value:
        value = value.splitlines()
    elif not isinstance(value, dict | list) or len(title) + len(in_line(value)) <= WIDTH:
        yield f"{title}{in_line(value)}"
        return
    if title:
        yield title.rstrip()
    for key, part in sorted(value.items()) if isinstance(value, dict) else enumerate(value):
        first, *more = lines_of("" if isinstance(key, int) else f"{key}: ", part)
        margin, after = ("- ", "  ") if isinstance(key, int) else ("", "")
        yield from ("  " * bool(title) + line for line in (margin + first, *(after + line for line in more)))


def in_line(value: Any) -> str:
    match value:
        case dict():
            return f"{{{', '.join(f'{key}: {in_line(part)}' for key, part in sorted(value.items()))}}}"
        case list():
            return f"[{', '.join(map(in_line, value))}]"
    return json.dumps(value) if isinstance(value, bool) else str(value)


def blocks_of(done: Synthesised, stack: str, pattern: str) -> Iterator[str]:
    template = readable(done.whole(f"{done.stage.prefix}-{stack}"))
    yield f"# {stack}"
    for logical_id, resource in sorted(template["Resources"].items(), key=lambda item: (item[1]["Type"], item[0])):
        text = "\n  ".join([f"{resource['Type']} {logical_id}", *lines_of("", shown(resource))])
        if re.search(pattern, text):
            yield text
    if not pattern:
        yield "\n".join(lines_of("Outputs: ", template.get("Outputs", {})))


@pytest.mark.parametrize("app", SHOWN)
def test_the_templates_of_an_app_are_as_reviewed(app: str, synth: Synth) -> None:
    done = synth.app(app)
    text = "\n".join(block for stack, pattern in SHOWN[app].items() for block in blocks_of(done, stack, pattern))
    text = re.sub(" +$", "", text, flags=re.MULTILINE)
    if done.stage.local:
        text = text.replace(f"[{done.stage.architecture}]", "[ARCHITECTURE]")
    golden(FOLDER / f"{app}.txt", text)
