"""An assembly with the templates of before a deploy, which `cdk deploy --app FOLDER` deploys again.

The files that these templates name are in the bucket of the bootstrap, which keeps them.
Source: bootstrap-template.yaml of the CDK command line; only `cdk gc` deletes files there.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from joblane.cdk.templates import MIGRATION, Template
from joblane.cdk.way_back.deployed import Deployed

STACK, ASSETS = "aws:cloudformation:stack", "cdk:asset-manifest"
PROPERTY = "TakenBack"
"""A property of the migration, which :mod:`joblane.functions.migrate.handler` reads."""
FILES = "files"


def folder_of(assembly: Path) -> Path:
    """Return the folder of the earlier templates: next to ``assembly``, which a synthesis writes again."""
    return assembly.with_name(f"{assembly.name}.before")


def regions_of(assembly: Path) -> dict[str, str]:
    """Return stack → region, of the stacks in the assembly that name a region."""
    artifacts = json.loads((assembly / "manifest.json").read_text(encoding="utf-8"))["artifacts"]
    found = {
        _stack_of(name, artifact): artifact["environment"].rpartition("/")[2]  # aws://ACCOUNT/REGION
        for name, artifact in artifacts.items()
        if artifact["type"] == STACK
    }
    return {stack: region for stack, region in found.items() if region != "unknown-region"}


def write_folder(deployed: Deployed, assembly: Path, *, by: str, version: str, why: str) -> Path:
    """Write the stacks of ``deployed`` into an assembly that is otherwise as ``assembly``, and return its folder.

    ``by``, ``version``, ``why``: the person who takes the deploy of ``version`` back and the reason, for the audit.
    """
    folder = folder_of(assembly)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    manifest = json.loads((assembly / "manifest.json").read_text(encoding="utf-8"))
    stacks = {
        name: artifact
        for name, artifact in manifest["artifacts"].items()
        if artifact["type"] == STACK and _stack_of(name, artifact) in deployed.templates
    }
    artifacts: dict[str, Any] = {}
    for name, artifact in stacks.items():
        stack, properties = _stack_of(name, artifact), artifact["properties"]
        text = json.dumps(_recorded(deployed.templates[stack], by=by, version=version, why=why), indent=1)
        (folder / properties["templateFile"]).write_text(text, encoding="utf-8")
        digest = hashlib.sha256(text.encode()).hexdigest()
        replaced: dict[str, str] = {}
        for other in artifact.get("dependencies", ()):
            given = manifest["artifacts"][other]
            if given["type"] == ASSETS:
                file = given["properties"]["file"]
                assets = json.loads((assembly / file).read_text(encoding="utf-8"))
                own, old = _own_asset(assets, properties["templateFile"], digest)
                replaced |= {old: digest} if old else {}
                (folder / file).write_text(json.dumps(own), encoding="utf-8")
                artifacts[other] = given
        properties = {**properties, "tags": dict(deployed.tags.get(stack, {}))}
        if url := properties.get("stackTemplateAssetObjectUrl"):
            properties["stackTemplateAssetObjectUrl"] = _with(url, replaced)
        kept = ("type", "environment", "displayName")
        artifacts[name] = {**{key: artifact[key] for key in kept if key in artifact}, "properties": properties}
    for name, names in _reversed(stacks).items():
        assets = [other for other in stacks[name].get("dependencies", ()) if other in artifacts and other not in stacks]
        artifacts[name]["dependencies"] = [*names, *assets]
    (folder / "manifest.json").write_text(
        json.dumps({"version": manifest["version"], "artifacts": artifacts}), encoding="utf-8"
    )
    return folder


def _stack_of(name: str, artifact: Mapping[str, Any]) -> str:
    return str(artifact["properties"].get("stackName", name))


def _reversed(stacks: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the dependencies of the stacks in the other direction.

    A deploy can only have added exports: CloudFormation removes none that another stack uses. So the stacks that use
    them are first on the way back.
    """
    found: dict[str, list[str]] = defaultdict(list)
    for name, artifact in stacks.items():
        found[name] += []
        for other in artifact.get("dependencies", ()):
            if other in stacks:
                found[other].append(name)
    return found


def _recorded(template: Template, *, by: str, version: str, why: str) -> Template:
    """Return the template with what the migration writes into the audit, which has no part in its own decision."""
    given = {"By": by, PROPERTY: json.dumps({"from": version, "why": why})}
    resources = {
        name: {**each, "Properties": {**each["Properties"], **given}} if each["Type"] == MIGRATION else each
        for name, each in template["Resources"].items()
    }
    return {**template, "Resources": resources}


def _own_asset(assets: Mapping[str, Any], file: str, digest: str) -> tuple[dict[str, Any], str]:
    """Return the manifest of assets with the template in ``file`` only, and the digest that it had."""
    for old, entry in assets.get(FILES, {}).items():
        if entry["source"].get("path") == file:
            return {**assets, FILES: {digest: json.loads(_with(json.dumps(entry), {old: digest}))}}, old
    return {**assets, FILES: {}}, ""


def _with(text: str, replaced: Mapping[str, str]) -> str:
    for old, new in replaced.items():
        text = text.replace(old, new)
    return text
