"""The CDK app of the :class:`~tests.e2e.dev_stage.checkout.Checkout`: the app of this project, for the emulator.

The stage is synthesised once. Later runs copy the assembly, also if it has been changed since.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

ASSEMBLY = Path("assembly")
DATABASES = Path("databases.json")
"""Both are relative to the checkout."""


def main() -> int:
    if not ASSEMBLY.exists():
        _synthesise()
    output = Path(os.environ["CDK_OUTDIR"])
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(ASSEMBLY, output)
    return 0


def _synthesise() -> None:
    from infra.app import APP
    from joblane.cdk.app import context_of_file
    from joblane.cdk.packaging import build_packages
    from joblane.project import Project
    from tests.e2e.dev_stage.assembly import adapt

    new = Path(f"{ASSEMBLY}.new")
    shutil.rmtree(new, ignore_errors=True)
    APP.synthesise(
        context_of_file(Project.here()) | {"@aws-cdk/core:validateAgainstDefaultRules": False},  # tests/infra has them
        output=new.absolute(),
        environ=os.environ,
        # the emulator runs the functions on this machine's processor
        build=lambda stage, project: build_packages(stage.model_copy(update={"local": True}), project),
        findings=False,
    )
    adapt(new, json.loads(DATABASES.read_text(encoding="utf-8")))
    new.rename(ASSEMBLY)


if __name__ == "__main__":
    sys.exit(main())
