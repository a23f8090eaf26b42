"""A Django project on the emulator: its tasks are enqueued in its transactions, and run in Lambda functions."""

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
from tests.pages import ROOT

PACKAGES = ("asgiref", "django", "psycopg", "psycopg-binary", "sqlparse")
SETTINGS = """
from joblane.django import database

DATABASES = {"default": database()}
INSTALLED_APPS = ["joblane.django", "shop"]
SECRET_KEY = "of the test"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TASKS = {"default": {"BACKEND": "joblane.django.JoblaneBackend", "QUEUES": ["default", "mail"]}}
"""
MODELS = """
from django.db import models


class Receipt(models.Model):
    order = models.IntegerField()
    line = models.TextField()
"""
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
                ("line", models.TextField()),
            ],
        )
    ]
"""
TASKS = """
from django.tasks import task

from shop.models import Receipt


@task(takes_context=True)
def write_receipt(context, order, line):
    receipt = Receipt.objects.create(order=order, line=line)
    return {"receipt": receipt.id, "attempt": context.attempt}


@task(queue_name="mail")
async def count(order):
    return await Receipt.objects.filter(order=order).acount()


@task
def refuse(order):
    Receipt.objects.create(order=order, line="never")
    raise LookupError("there is no such order")
"""
HANDLER = """
import os
from datetime import timedelta

from joblane.django import django_tasks

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
django_{name} = django_tasks("{name}", max_retry=1, retry_delay=timedelta(0))
"""
PROGRAM = """
import json
import time

import django
from django.db import transaction

django.setup()
from shop.models import Receipt
from shop.tasks import count, refuse, write_receipt

with transaction.atomic():
    written = write_receipt.enqueue(7, "two candles")
    refused = refuse.enqueue(7)
with transaction.atomic():
    write_receipt.enqueue(7, "rolled back")
    transaction.set_rollback(True)


def end(result):
    until = time.monotonic() + 90
    while not result.is_finished and time.monotonic() < until:
        time.sleep(0.1)
        result.refresh()
    return result


value = end(written).return_value
failed = end(refused)
counted = end(count.enqueue(7))
print(json.dumps({
    "value": value,
    "failed": [str(failed.status), failed.attempts, [error.exception_class_path for error in failed.errors]],
    "count": counted.return_value,
    "lines": list(Receipt.objects.values_list("line", flat=True)),
}))
"""


def lock() -> str:
    """The lock of the library's own functions, and of Django and its driver, from this project's lock."""
    blocks = re.split(r"\n(?=[a-z])", (ROOT / "requirements" / "dev.txt").read_text())
    named = {re.split(r"[=\[ ]", block)[0]: block for block in blocks}
    return "\n".join([(LOCKS / "runtime.txt").read_text(), *(named[name] for name in PACKAGES), ""])


def write_project(root: Path) -> Project:
    root.mkdir()
    files = {
        "pyproject.toml": '[project]\nname = "shop"\n\n[tool.joblane]\ncode = ["shop"]\nlock = "lock.txt"\n',
        "lock.txt": lock(),
        "shop/__init__.py": "",
        "shop/settings.py": SETTINGS,
        "shop/models.py": MODELS,
        "shop/tasks.py": TASKS,
        "shop/migrations/__init__.py": "",
        "shop/migrations/0001_initial.py": MIGRATION,
        **{f"functions/django_{name}/handler.py": HANDLER.format(name=name) for name in ("default", "mail")},
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
def shop(one_stack: Deployed, tmp_path: Path) -> Iterator[Shop]:
    """The project, deployed to the running emulator."""
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
    assert "no issues" in shop.run("-m", "django", "check")
    # when it enqueues tasks
    found: dict[str, Any] = json.loads(shop.run("-c", PROGRAM))
    # then they run once, with the results
    assert found["value"] == {"receipt": 1, "attempt": 1}
    assert found["failed"] == ["FAILED", 2, ["builtins.LookupError"] * 2]
    assert (found["count"], found["lines"]) == (1, ["two candles"])
