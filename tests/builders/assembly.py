"""Templates of a small stage, and an assembly, as the CDK writes them."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

QUEUE: dict[str, Any] = {"Type": "AWS::SQS::Queue", "Properties": {"QueueName": "acme-low-data-export"}}
ALARM = {"Type": "AWS::CloudWatch::Alarm", "Properties": {"AlarmName": "acme-errors", "Threshold": 1}}
MIGRATION = {
    "Type": "Custom::Migration",
    "Properties": {"Code": "1", "Database": "db", "Functions": "db", "Schedules": "{}", "User": "", "Version": "v1"},
}
SETTINGS = {"prefix": "acme", "schema": {"revision": "0001", "own": "abc"}, "limits": {"data:export": "data:export/||"}}
BEFORE: dict[str, dict[str, Any]] = {
    "acme-data": {"Resources": {"DB": {"Type": "AWS::RDS::DBCluster", "Properties": {"Engine": "aurora"}}}},
    "acme-jobs": {"Metadata": {"Joblane": SETTINGS}, "Resources": {"Run": MIGRATION}},
    "acme-jobs/Part3": {"Resources": {"Lane": QUEUE}},
    "acme-monitoring": {"Resources": {"Errors": ALARM}},
}


def changed(stack: str, *path: str, to: Any) -> dict[str, dict[str, Any]]:
    """Return the templates with another value; None removes it."""
    found = deepcopy(BEFORE)
    *parents, last = path
    node: Any = found[stack]
    for key in parents:
        node = node[key]
    if to is None:
        del node[last]
    else:
        node[last] = to
    return found


def write_assembly(folder: Path) -> None:
    """Write an assembly of two stacks, of which the second uses the first, as the CDK does."""
    artifacts: dict[str, Any] = {"Tree": {"type": "cdk:tree", "properties": {"file": "tree.json"}}}
    folder.mkdir()
    for stack, on in (("acme-data", []), ("acme-jobs", ["acme-data"])):
        text = json.dumps({"Resources": {}})
        (folder / f"{stack}.template.json").write_text(text)
        destination = {"bucketName": "assets", "objectKey": f"{stack}-digest.json"}
        files = {
            f"{stack}-digest": {"source": {"path": f"{stack}.template.json"}, "destinations": {"here": destination}},
            "code": {"source": {"path": "asset.code.zip"}, "destinations": {}},
        }
        (folder / f"{stack}.assets.json").write_text(json.dumps({"version": "1", "files": files}))
        artifacts[f"{stack}.assets"] = {"type": "cdk:asset-manifest", "properties": {"file": f"{stack}.assets.json"}}
        properties = {
            "templateFile": f"{stack}.template.json",
            "stackTemplateAssetObjectUrl": f"s3://assets/{stack}-digest.json",
            "cloudFormationExecutionRoleArn": "arn:exec",
            "tags": {"stage": "new"},
        }
        artifacts[stack] = {
            "type": "aws:cloudformation:stack",
            "environment": "aws://111122223333/eu-central-1",
            "properties": properties,
            "dependencies": [*on, f"{stack}.assets"],
            "additionalMetadataFile": f"{stack}.metadata.json",
        }
    (folder / "manifest.json").write_text(json.dumps({"version": "1", "artifacts": artifacts}))
