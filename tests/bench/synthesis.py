"""The synthesis of a stage with hundreds of task types, each with a schedule.

``python -m tests.bench.synthesis [TYPES]`` (default 200) prints the seconds without and with validation and cdk-nag,
and the size of every stack. ``make bench`` has the first only.
"""

from __future__ import annotations

import sys
import tempfile
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from joblane.cdk.app import JoblaneApp, Synthesised
from joblane.cdk.packaging import Package, Packages
from joblane.cdk.sizes import MAX_RESOURCES, body, resources_of
from tests.bench.report import Ratio, within

if TYPE_CHECKING:
    from collections.abc import Iterator

TYPES = 200
PACKAGE = "many_types"
MAX_SECONDS = 60
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
    "concurrency_budget": 2 * TYPES,
    "account_concurrency": 10_000,
    "database_connections": 10_000,
    "database": {
        "kind": "existing",
        "host": "db.internal",
        "name": "jobs",
        "secret": "arn:aws:secretsmanager:eu-central-1:111122223333:secret:jobs-AbCdEf",
    },
}
VALIDATION = "@aws-cdk/core:validateAgainstDefaultRules"


def run() -> list[Ratio]:
    with tempfile.TemporaryDirectory() as name, declared(Path(name), TYPES):
        done, seconds = synthesise(Path(name), checked=False)
    largest = max(len(template.get("Resources", ())) for template in done.templates.values())
    setting = f"{TYPES} types with a schedule each; against the target"
    return [
        within("synthesis", f"{setting}, without validation and cdk-nag", seconds, MAX_SECONDS, "s"),
        within("largest stack", f"{setting}, CloudFormation's limit", largest, MAX_RESOURCES, "resources"),
    ]


@contextmanager
def declared(folder: Path, types: int) -> Iterator[None]:
    """Write a package with ``types`` task types, and make it importable."""
    package = folder / PACKAGE
    for number in range(types):
        area, step = f"area_{number % 14}", f"step_{number}"
        function = package / f"{area}_{step}"
        function.mkdir(parents=True)
        (function / "handler.py").write_text(HANDLER.format(type=f"{area}:{step}", function=f"{area}_{step}"))
    (package / "__init__.py").touch()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


def synthesise(folder: Path, *, checked: bool) -> tuple[Synthesised, float]:
    """Return the templates and the seconds. ``checked``: with the CDK's own validation and cdk-nag."""
    archive = folder / "empty.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("nothing.py", "")
    packages = Packages(code=Package(archive, "c0de" * 16), layer=Package(archive, "1a7e4" * 12))
    context = {"stage": "bench", "stages": {"bench": STAGE}, "@aws-cdk/aws-iam:minimizePolicies": True}
    start = time.perf_counter()
    done = JoblaneApp(functions=PACKAGE).synthesise(
        {**context, VALIDATION: checked},
        output=folder / f"cdk.out-{checked}",
        environ={},
        build=lambda *_: packages,
        findings=checked,
    )
    return done, time.perf_counter() - start


def main(types: int) -> None:
    with tempfile.TemporaryDirectory() as name, declared(Path(name), types):
        for checked in (False, True):
            done, seconds = synthesise(Path(name), checked=checked)
            print(f"validation and cdk-nag {'on' if checked else 'off'}: {seconds:.1f} s")
        for stack, template in sorted(done.templates.items()):
            print(f"{stack:60} {len(template['Resources']):4} resources {len(body(template)):8,} bytes")
        print(f"{resources_of(done.templates, 'jobs-bench-jobs')} resources in one operation")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else TYPES)
