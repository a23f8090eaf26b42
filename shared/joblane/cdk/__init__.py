"""The CDK app. Synthesising calls no AWS API and needs no credentials."""

import os

from joblane.project import Project

if (_node := Project.here().folder / "tools" / "bin" / "node").exists():
    # jsii wants Node 22 or newer, and reads this when aws_cdk is imported
    os.environ.setdefault("JSII_NODE", str(_node))
