"""The project of ``docs/how-to/django.md`` on the emulator: its tasks run in Lambda functions, and its tests pass."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from joblane.cli.scaffold import init
from joblane.local.stack import LocalStack
from joblane.local.tools import clean_environment
from joblane.project import LOCKS, Project
from tests.e2e.conftest import Deployed, allow_batches
from tests.pages import ROOT, blocks

PACKAGES = ("asgiref", "django", "psycopg", "psycopg-binary", "sqlparse")
FILE = re.compile(r"# (\S+\.py)\n")
"""The first line of a block: its file."""
PAGE = ROOT / "docs" / "how-to" / "django.md"
MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Receipt",
            [
                ("id", models.BigAutoField(primary_key=True, auto_created=True, serialize=False)),
                ("order", models.IntegerField()),
                ("mailed", models.BooleanField(default=False)),
            ],
        )
    ]
"""
PROGRAM = """
import json
import time

import django
from django.db import transaction

django.setup()
from shop.models import Receipt
from shop.orders import pay, show
from shop.tasks import mail_receipt, refund

paid = pay(7)
with transaction.atomic():
    pay(8)
    transaction.set_rollback(True)
refused = refund.enqueue(1)
until = time.monotonic() + 600
while time.monotonic() < until:
    refused.refresh()
    if refused.is_finished and Receipt.objects.filter(mailed=True).exists():
        break
    time.sleep(0.1)
print(json.dumps({
    "paid": show(paid),
    "refused": [str(refused.status), refused.attempts, [error.exception_class_path for error in refused.errors]],
    "receipts": list(Receipt.objects.values_list("order", "mailed")),
}))
"""


def lock() -> str:
    """The lock of the library's own functions, and of Django and its driver, from this project's lock."""
    blocks = re.split(r"\n(?=[a-z])", (ROOT / "requirements" / "dev.txt").read_text())
    named = {re.split(r"[=\[ ]", block)[0]: block for block in blocks}
    return "\n".join([(LOCKS / "runtime.txt").read_text(), *(named[name] for name in PACKAGES), ""])


def write_project(root: Path) -> Project:
    root.mkdir()
    [_, toml] = [block.text for block in blocks("toml", PAGE)]  # for joblane dev, and with the lock file
    files = {
        "pyproject.toml": f'[project]\nname = "shop"\n\n{toml}',
        "functions.txt": lock(),
        "shop/__init__.py": "",
        "shop/migrations/__init__.py": "",
        "shop/migrations/0001_initial.py": MIGRATION,
        **{FILE.match(block.text)[1]: block.text for block in blocks("python", PAGE)},  # type: ignore[index]
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text.lstrip())
    init(Project.at(root))
    return Project.at(root)


class Shop:
    """The project on its own stage of the emulator."""

    def __init__(self, stack: LocalStack) -> None:
        self.stack = stack

    def run(self, *arguments: str) -> str:
        """Run Python in the project, with the variables of the local stack."""
        project = self.stack.project
        variables = {"DJANGO_SETTINGS_MODULE": "shop.settings", "PYTHONPATH": f"{project.root}:{ROOT / 'shared'}"}
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=project.root,
            env={**clean_environment(project), **self.stack.environment, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
def shop(one_stack: Deployed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    """The project, deployed to the running emulator."""
    for name in ("JOBLANE_PROJECT", "JOBLANE_MIGRATIONS"):  # of the project that an earlier test has activated
        monkeypatch.delenv(name, raising=False)
    project = write_project(tmp_path / "shop")
    project.make_folder()
    for name in ("tools", "build"):  # the layer with Django is built once for all runs
        (ROOT / ".joblane" / name).mkdir(exist_ok=True)
        (project.folder / name).symlink_to(ROOT / ".joblane" / name)
    stack = LocalStack(
        project.folder, project=project, prefix="shop", external_endpoint=one_stack.stack.endpoint, detached=False
    )
    try:
        stack.up()
        allow_batches()
        yield Shop(stack)
    finally:
        stack.down()


@pytest.mark.usefixtures("deployed")
def test_the_tasks_of_a_django_project_run_in_lambda(shop: Shop) -> None:
    # given the project's tables, and Joblane's, by Django's own commands
    shop.run("-m", "django", "migrate", "--verbosity", "0")
    assert "The schema is up to date" in shop.run("-m", "django", "joblane", "migrate")
    # when it enqueues tasks
    found: dict[str, Any] = json.loads(shop.run("-c", PROGRAM))
    # then they run once, with the results
    assert found["paid"] == {"receipt": 1, "attempt": 1}
    assert found["refused"] == ["FAILED", 2, ["builtins.LookupError"] * 2]
    assert found["receipts"] == [[7, True]]
    # and the project's own tests pass
    assert "Found 2 test(s)" in shop.run("-m", "django", "test", "--pattern", "tests*.py")
