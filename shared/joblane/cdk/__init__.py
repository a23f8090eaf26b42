"""The CDK app and its constructs. Synthesising calls no AWS API and needs no credentials.

Import it before ``aws_cdk``, which starts Node.js at import.
Raises :class:`~joblane.cdk.errors.SynthError` if there is no Node.js.
"""

import os
import shutil

from joblane.cdk.errors import SynthError
from joblane.project import Project

_folder = Project.here().folder
if (_node := _folder / "tools" / "bin" / "node").exists():
    # jsii requires Node 22 or newer and reads this variable when aws_cdk is imported
    os.environ.setdefault("JSII_NODE", str(_node))
if shutil.which(os.environ.get("JSII_NODE") or "node") is None:
    raise SynthError(
        f"the CDK needs Node.js 22, and there is none at {_node}, in JSII_NODE or on PATH. `joblane up` fetches it"
    )
# the default is below HOME; jsii fails or hangs if HOME is read-only
os.environ.setdefault("JSII_RUNTIME_PACKAGE_CACHE_ROOT", str(_folder / "cache" / "jsii"))
