"""An assembly of a stage for AWS, changed so that an emulator deploys it. Every change is in the lists of this module.

A reference to a resource that the emulator refuses becomes the text :data:`MISSING`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.e2e.dev_stage.nested import STACK, inline

REFUSED = frozenset(
    {
        "AWS::EC2::EgressOnlyInternetGateway",
        "AWS::EC2::FlowLog",
        "AWS::EC2::SecurityGroupEgress",
        "AWS::EC2::SecurityGroupIngress",
        "AWS::EC2::VPCCidrBlock",
        "AWS::Logs::QueryDefinition",
    }
)
"""Types of resources that the emulator does not know. It refuses a whole template for each of them."""
REFUSED_WITH = {"AWS::CloudWatch::Alarm": "Metrics"}
"""Type → property. The emulator does not create a resource of the type with the property."""
MISSING = "not-on-the-emulator"
ATTRIBUTES = {"Ipv6CidrBlocks": ["2001:db8:0:100::/56"]}
"""Attributes that the emulator does not know, with a value."""
DUAL_STACK = "AWS_USE_DUALSTACK_ENDPOINT"
"""A variable that botocore refuses together with the endpoint of an emulator."""
ORIGINAL = "original"
"""Folder of an assembly with its unchanged templates."""


@dataclass(frozen=True)
class Template:
    """A template and its file. ``write`` saves changes of ``content``."""

    path: Path
    content: dict[str, Any]

    @classmethod
    def read(cls, path: Path) -> Template:
        return cls(path, json.loads(path.read_text(encoding="utf-8")))

    def write(self) -> None:
        self.path.write_text(json.dumps(self.content, indent=1), encoding="utf-8")

    @property
    def resources(self) -> dict[str, dict[str, Any]]:
        """Logical id → resource."""
        found: dict[str, dict[str, Any]] = self.content["Resources"]
        return found

    def of_type(self, type_: str) -> list[dict[str, Any]]:
        return [resource for resource in self.resources.values() if resource["Type"] == type_]


def read_templates(directory: Path) -> list[Template]:
    """Return the templates of an assembly, with those of nested stacks."""
    return [Template.read(path) for path in sorted(directory.glob("*.template.json"))]


def is_refused(resource: Mapping[str, Any]) -> bool:
    """Return true if the emulator cannot deploy the resource."""
    type_ = resource["Type"]
    return type_ in REFUSED or REFUSED_WITH.get(type_) in resource.get("Properties", {})


def adapt(directory: Path, databases: Mapping[str, str]) -> None:
    """Change the assembly in ``directory`` in place.

    ``databases``: name of a function → its ``DATABASE_URL``; ``""``: that of all others. The emulator's cluster has no
    database.
    """
    (directory / ORIGINAL).mkdir()
    for template in read_templates(directory):
        shutil.copy(template.path, directory / ORIGINAL)
    _inline_nested_stacks(directory)
    for template in read_templates(directory):
        remove(template, is_refused)
        for function in template.of_type("AWS::Lambda::Function"):
            _set_variables(function["Properties"], databases)
        template.write()
    _rename_assets(directory)


def change_code(directory: Path, file: str, old: str, new: str) -> None:
    """Replace ``old`` by ``new`` in a source file of the functions' code, as a change of the checkout would."""
    path = next(path for path in directory.glob("asset.*.zip") if file in zipfile.ZipFile(path).namelist())
    changed = path.with_suffix(".new")
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(changed, "w", zipfile.ZIP_DEFLATED) as after:
        text = before.read(file).decode()
        assert old in text
        for name in before.namelist():
            if not _is_compiled(name, file):
                after.writestr(name, text.replace(old, new) if name == file else before.read(name))
    digest = hashlib.sha256(changed.read_bytes()).hexdigest()
    path.unlink()
    changed.rename(directory / f"asset.{digest}.zip")
    _replace(directory, path.name.split(".")[1], digest)
    for template in read_templates(directory):
        for migration in template.of_type("Custom::Migration"):
            migration["Properties"]["Code"] = digest
        template.write()
    _rename_assets(directory)


def change_migration(directory: Path, **variables: str) -> None:
    """Change the stage's migration, so that the next deploy runs it. ``variables``: those of its function."""
    for template in read_templates(directory):
        for migration in template.of_type("Custom::Migration"):
            migration["Properties"]["Code"] += "-changed"
        for function in template.of_type("AWS::Lambda::Function"):
            if function["Properties"]["FunctionName"].endswith("-migrate"):
                function["Properties"]["Environment"]["Variables"] |= variables
        template.write()
    _rename_assets(directory)


def _inline_nested_stacks(directory: Path) -> None:
    for manifest in directory.glob("*.assets.json"):
        assets = json.loads(manifest.read_text(encoding="utf-8"))
        nested = {
            name: Template.read(directory / file["source"]["path"])
            for name, file in assets["files"].items()
            if ".nested." in file["source"]["path"]
        }
        parent = Template.read(directory / manifest.name.replace(".assets.", ".template."))
        stacks = {name: json.dumps(each) for name, each in parent.resources.items() if each["Type"] == STACK}
        of_stack = {name: next(nested[hash_] for hash_ in nested if hash_ in text) for name, text in stacks.items()}
        inline(parent.content, {name: template.content for name, template in of_stack.items()})
        parent.write()
        for name in nested:
            del assets["files"][name]
        manifest.write_text(json.dumps(assets), encoding="utf-8")
        for template in of_stack.values():
            template.path.unlink()


def remove(template: Template, is_gone: Callable[[Mapping[str, Any]], bool]) -> None:
    """Remove resources, and replace references to them by :data:`MISSING`."""
    gone = {name for name, resource in template.resources.items() if is_gone(resource)}
    for name in gone:
        del template.resources[name]
    for resource in template.resources.values():
        if after := resource.get("DependsOn"):
            resource["DependsOn"] = [
                name for name in ([after] if isinstance(after, str) else after) if name not in gone
            ]
    for section in ("Resources", "Outputs"):
        template.content[section] = _without(template.content.get(section, {}), gone)


def _without(value: Any, gone: set[str]) -> Any:
    """Return the value with :data:`MISSING` in place of references to ``gone``, and with :data:`ATTRIBUTES`."""
    if isinstance(value, list):
        return [_without(item, gone) for item in value]
    if not isinstance(value, dict):
        return value
    target = value.get("Ref") or value.get("Fn::GetAtt")
    if len(value) == 1 and target:
        name, attribute = (target, "") if isinstance(target, str) else target
        return MISSING if name in gone else ATTRIBUTES.get(attribute, value)
    return {key: _without(item, gone) for key, item in value.items()}


def _set_variables(function: dict[str, Any], databases: Mapping[str, str]) -> None:
    variables = function.get("Environment", {}).get("Variables", {})
    if "DATABASE_URL" in variables:
        variables["DATABASE_URL"] = databases.get(function["FunctionName"], databases[""])
    variables.pop(DUAL_STACK, None)


def _is_compiled(name: str, source: str) -> bool:
    return name.endswith(".pyc") and name.startswith(str(Path(source).parent)) and Path(source).stem in name


def _rename_assets(directory: Path) -> None:
    """Give each template the hash of its content: the CDK uploads no asset whose hash is in the bucket."""
    for template in read_templates(directory):
        new = hashlib.sha256(template.path.read_bytes()).hexdigest()
        for old in set(_hashes_of(directory, template.path.name)) - {new}:
            _replace(directory, old, new)


def _hashes_of(directory: Path, template: str) -> Iterator[str]:
    for manifest in directory.glob("*.assets.json"):
        files = json.loads(manifest.read_text(encoding="utf-8"))["files"]
        yield from [name for name, file in files.items() if file["source"]["path"] == template]


def _replace(directory: Path, old: str, new: str) -> None:
    for file in directory.glob("*.json"):
        text = file.read_text(encoding="utf-8")
        if old in text:
            file.write_text(text.replace(old, new), encoding="utf-8")
