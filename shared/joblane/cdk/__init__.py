"""The CDK app and its constructs. Synthesising calls no AWS API and needs no credentials.

Import it before ``aws_cdk``, which starts Node.js at once. Raises :class:`~joblane.cdk.errors.SynthError` without any.
"""

import os
import shutil

from joblane.cdk.errors import SynthError
from joblane.project import Project

_folder = Project.here().folder
if (_node := _folder / "tools" / "bin" / "node").exists():
    # jsii wants Node 22 or newer, and reads this when aws_cdk is imported
    os.environ.setdefault("JSII_NODE", str(_node))
if shutil.which(os.environ.get("JSII_NODE") or "node") is None:
    raise SynthError(
        f"the CDK needs Node.js 22, and finds none at {_node}, in JSII_NODE or on PATH. `joblane up` fetches it"
    )
# and not below HOME, which may be read-only: jsii fails there, or hangs
os.environ.setdefault("JSII_RUNTIME_PACKAGE_CACHE_ROOT", str(_folder / "cache" / "jsii"))
