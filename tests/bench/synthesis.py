"""The synthesis of a whole stage with hundreds of task types, each with a schedule.

``python -m tests.bench.synthesis [TYPES]`` (default 200) prints the size of every stack, and the seconds without and
with the CDK's own validation and cdk-nag. ``make bench`` has the seconds without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.cdk.sizes import MAX_OPERATION, MAX_RESOURCES, body
from tests.bench.report import Ratio, within

if TYPE_CHECKING:
    from joblane.cdk.app import Synthesised

TYPES = 200
MAX_SECONDS = 60
PACKAGE, JOBS = "many_types", "jobs-bench-jobs"
HANDLER = """
from joblane import Payload, every, task

class Nothing(Payload):
    pass

@task("{type}", schedule=every(minutes=30))
def {function}(payload: Nothing, ctx: object) -> None:
    pass
"""
STAGE: dict[str, Any] = {
    "prefix": "jobs-bench",
    "account_concurrency": 10_000,
    "network": {"kind": "new"},
    "database": {"kind": "aurora", "min_capacity": 0, "max_capacity": 256},
    "control": {},
    "monitoring": {"email": "off"},
}


def run() -> list[Ratio]:
    found = measured(TYPES, checked=False)
    setting = f"{TYPES} types, each with a schedule"
    return [
        within("synthesis", f"{setting}, without validation and cdk-nag; target", found["seconds"], MAX_SECONDS, "s"),
        within(
            "largest stack", f"{setting}; CloudFormation's limit", max(found["resources"].values()), MAX_RESOURCES, ""
        ),
        within(
            "resources of an operation",
            f"{setting}; CloudFormation's limit",
            in_one_operation(found),
            MAX_OPERATION,
            "",
        ),
    ]


def in_one_operation(found: dict[str, Any]) -> int:
    return sum(number for stack, number in found["resources"].items() if stack.startswith(JOBS))


def measured(types: int, *, checked: bool) -> dict[str, Any]:
    """Return the ``seconds``, and ``resources`` and ``bytes`` by stack, of a synthesis in a process of its own.

    ``checked``: with validation and cdk-nag.
    """
    with tempfile.TemporaryDirectory() as name:
        declare(Path(name), types)
        arguments = [sys.executable, "-m", __name__ if __name__ != "__main__" else "tests.bench.synthesis"]
        environ = {**os.environ, "CDK_VALIDATION": str(checked).lower()}
        done = subprocess.run([*arguments, name], env=environ, stdout=subprocess.PIPE, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
    return found


def declare(folder: Path, types: int) -> None:
    """Write the package :data:`PACKAGE` with ``types`` task types."""
    package = folder / PACKAGE
    for number in range(types):
        area, step = f"area_{number % 14}", f"step_{number}"
        function = package / f"{area}_{step}"
        function.mkdir(parents=True)
        (function / "handler.py").write_text(HANDLER.format(type=f"{area}:{step}", function=f"{area}_{step}"))
    (package / "__init__.py").touch()


def synthesise(folder: Path, *, checked: bool) -> tuple[Synthesised, float]:
    """Return the templates and the seconds, with the start of Node.js."""
    start = time.perf_counter()
    from joblane.cdk.app import JoblaneApp
    from joblane.cdk.packaging import Package, Packages

    sys.path.insert(0, str(folder))
    archive = folder / "empty.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("nothing.py", "")
    packages = Packages(code=Package(archive, "c0de" * 16), layer=Package(archive, "1a7e4" * 12))
    done = JoblaneApp(functions=PACKAGE).synthesise(
        {"stage": "bench", "stages": {"bench": STAGE}},
        output=folder / "cdk.out",
        environ={},
        build=lambda *_: packages,
        findings=checked,
    )
    return done, time.perf_counter() - start


def main(argument: str = str(TYPES)) -> None:
    if not argument.isdecimal():
        done, seconds = synthesise(Path(argument), checked=os.environ["CDK_VALIDATION"] == "true")
        sizes = {stack: len(body(template).encode()) for stack, template in done.templates.items()}
        resources = {stack: len(template["Resources"]) for stack, template in done.templates.items()}
        print(json.dumps({"seconds": seconds, "resources": resources, "bytes": sizes}))
        return
    for checked in (False, True):
        found = measured(int(argument), checked=checked)
        if not checked:
            for stack, resources in sorted(found["resources"].items()):
                print(
                    f"{stack.partition('NestedStack')[0]:40} {resources:4} resources {found['bytes'][stack]:8,} bytes"
                )
            print(f"{JOBS + ' in one operation':40} {in_one_operation(found):4} resources")
        print(f"validation and cdk-nag {'on' if checked else 'off'}: {found['seconds']:.1f} s")


if __name__ == "__main__":
    main(*sys.argv[1:])
