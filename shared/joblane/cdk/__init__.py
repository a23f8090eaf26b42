"""The CDK app and its constructs. Synthesising calls no AWS API and needs no credentials."""

import os

from joblane.project import Project

_folder = Project.here().folder
if (_node := _folder / "tools" / "bin" / "node").exists():
    # jsii wants Node 22 or newer, and reads this when aws_cdk is imported
    os.environ.setdefault("JSII_NODE", str(_node))
# and not below HOME, which may be read-only: jsii fails there, or hangs
os.environ.setdefault("JSII_RUNTIME_PACKAGE_CACHE_ROOT", str(_folder / "cache" / "jsii"))
