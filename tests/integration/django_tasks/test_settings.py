"""The settings of a project: the database's login, the system checks, the declaration, and the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import django
import pytest
from django.apps import apps
from django.conf import settings
from django.core.checks import run_checks
from django.core.exceptions import ImproperlyConfigured
from django.core.management import call_command, execute_from_command_line
from django.db import connections
from django.db.utils import ConnectionHandler
from django.tasks import default_task_backend
from django.tasks.exceptions import InvalidTaskBackend
from django.test import override_settings

from joblane import Lambda
from joblane.cli import main
from joblane.django import database, declare, django_tasks
from joblane.django.postgresql.base import DatabaseWrapper
from joblane.errors import DeclarationError
from joblane.names import PLACE
from joblane.record.driver import login
from joblane.record.driver import opening as connecting
from joblane.secret_values import SecretError
from tests.django_database import database_of
from tests.integration.django_tasks.conftest import backend
from tests.pages import ROOT


def connected(entry: dict[str, Any]) -> Any:
    """Connect by an entry of `DATABASES`, and return what the session shows."""

    handler = ConnectionHandler({"default": entry})
    try:
        with handler["default"].cursor() as cursor:
            cursor.execute("select current_user, current_database()")
            return cursor.fetchone()
    finally:
        handler.close_all()


def test_an_entry_of_databases_has_the_address_of_the_environment(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", database_url)
    entry = database(CONN_MAX_AGE=60)
    assert (entry["CONN_MAX_AGE"], entry["CONN_HEALTH_CHECKS"]) == (60, True)
    assert connected(entry) == (entry["USER"], entry["NAME"])


def test_a_login_in_a_secret_is_read_when_django_connects(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # given a secret with the address, whose password was changed meanwhile
    values = [database_url.replace("@", "-old@"), database_url]
    monkeypatch.setattr(connecting, "text_of_secret", lambda name: values.pop(0) if values[1:] else values[0])
    # then Django reads it again
    assert connected(database("postgresql:///?secret=shop/url"))[1] == database_url.rpartition("/")[2]
    assert values == [database_url]


def test_a_secret_that_cannot_be_read_is_an_error_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: str) -> str:
        raise SecretError("no such secret")

    monkeypatch.setattr(login, "fetch", fail)
    with pytest.raises(OSError, match="no such secret"):
        connected(database("postgresql://shop@127.0.0.1/shop?secret=shop/login"))


def test_another_host_is_verified() -> None:
    def parameters(url: str) -> dict[str, Any]:

        made: DatabaseWrapper = ConnectionHandler({"default": database(url)})["default"]
        return made.get_connection_params()

    own = parameters("postgresql://shop:secret@db.example/shop")
    assert (own["sslmode"], own["sslrootcert"], own["password"]) == ("verify-full", "system", "secret")
    rds = parameters("postgresql://shop:secret@shop.abc.eu-central-1.rds.amazonaws.com/shop")
    assert rds["sslrootcert"].endswith("rds.pem")


# --- System checks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "options", "text"),
    [
        ({}, {}, None),
        ({"QUEUES": ["default", "night-shift"]}, {}, "QUEUES: queue name 'night-shift': lower-case letters"),
        (
            {"QUEUES": ["other"]},
            {},
            "write functions/django_other/handler.py with the line `django_other = django_tasks",
        ),
        ({"QUEUES": ["other"]}, {"functions": "not_here"}, None),
        ({}, {"database": "other"}, "OPTIONS['database']: there is no DATABASES['other']"),
        ({}, {"modules": ["not_here.tasks"]}, "a module with tasks cannot be imported: No module named 'not_here'"),
    ],
)
def test_a_check_names_what_is_wrong(
    changes: dict[str, Any], options: dict[str, Any], text: str | None, shop: Any
) -> None:
    with override_settings(TASKS={"default": {**backend(**options), **changes}}):
        found = [str(problem.msg) for problem in run_checks() if str(problem.id).startswith("joblane.")]
    assert len(found) == (text is not None)
    assert (text or "") in "".join(found)


def test_manage_py_check_asks_the_backend_before_a_task_is_imported(tmp_path: Path) -> None:
    # given a project whose applications import no task
    (tmp_path / "functions").mkdir()
    (tmp_path / "shop.py").write_text(
        "from joblane.django import database\n"
        "SECRET_KEY = 'x'\n"
        "INSTALLED_APPS = ['joblane.django']\n"
        "DATABASES = {'default': database('postgresql://shop@127.0.0.1/shop')}\n"
        "TASKS = {'default': {'BACKEND': 'joblane.django.JoblaneBackend', 'QUEUES': ['mail']}}\n"
    )
    # when Django checks it
    done = subprocess.run(
        [sys.executable, "-m", "django", "check"],
        cwd=tmp_path,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "shop", "PYTHONPATH": str(ROOT / "shared")},
        capture_output=True,
        text=True,
        check=False,
    )
    # then the queue without a handler is reported
    assert "write functions/django_mail/handler.py" in done.stderr
    assert done.returncode == 1


def test_a_check_requires_postgresql(shop: Any) -> None:
    connections.settings["light"] = {**connections.settings["default"], "ENGINE": "django.db.backends.sqlite3"}
    try:
        with override_settings(TASKS={"default": backend(database="light")}):
            [found] = [problem.msg for problem in run_checks() if str(problem.id).startswith("joblane.")]
    finally:
        del connections["light"]
        del connections.settings["light"]
    assert "PostgreSQL and psycopg 3 are required" in found


@pytest.mark.parametrize("options", [{"databse": "default"}, {"modules": "shop.jobs"}])
def test_a_wrong_option_is_refused(options: dict[str, Any], shop: Any) -> None:
    with (
        override_settings(TASKS={"default": backend(**options)}),
        pytest.raises(InvalidTaskBackend, match=rf"OPTIONS: .*{next(iter(options))}"),
    ):
        default_task_backend.check()


def test_an_older_django_is_refused(shop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(django, "VERSION", (5, 2, 0, "final", 0))
    with pytest.raises(ImproperlyConfigured, match=r"joblane\.django needs Django 6, which needs Python 3\.12"):
        apps.get_app_config("joblane").ready()


# --- Declarations --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("declare", "text"),
    [
        (lambda: django_tasks("night-shift"), "lower-case letters, digits and single underscores"),
        (lambda: django_tasks("a" * 40), "characters at most"),
        (lambda: django_tasks("mail", resumable=True), "resumable: a Django task has no ctx.resume"),
        (lambda: django_tasks("mail", atomic=None), "atomic: True or False"),  # type: ignore[arg-type]
        (lambda: django_tasks("mail", max_retry=-1), "max_retry"),
        (lambda: django_tasks("mail", environment="SHOP"), "a list of names is required"),
    ],
)
def test_a_declaration_that_cannot_work_is_refused(declare: Callable[[], object], text: str) -> None:
    with pytest.raises(DeclarationError, match=text):
        declare()


def test_a_declaration_has_the_folder_and_the_settings_of_its_queue() -> None:
    declared = django_tasks("mail", environment=["SHOP"], max_retry=2)
    assert (declared.type, declared.folder, declared.max_retry) == ("django:mail", "django_mail", 2)
    assert declared.environment == ("DJANGO_SETTINGS_MODULE", "SHOP")
    assert declared.function.__module__ == __name__
    assert not declared.front_door


@pytest.mark.parametrize(
    ("variables", "prepared"),
    [
        ({}, 0),
        ({"JOBLANE_TASK": "django:placed"}, 1),
        ({"JOBLANE_TASK": "django:other"}, 0),
        ({PLACE: "web"}, 1),
        ({PLACE: "other"}, 0),
    ],
)
def test_the_function_of_a_queue_prepares_django_while_it_imports_the_handler(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], prepared: int
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(declare, "prepare", lambda: calls.append(None))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    django_tasks("placed", runs_on=Lambda("web"))
    assert len(calls) == prepared


def test_a_worker_without_settings_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE", raising=False)
    monkeypatch.setattr(type(settings), "configured", False)
    declare.prepare.cache_clear()
    with pytest.raises(DeclarationError, match=r"DJANGO_SETTINGS_MODULE is not set: .*os.environ.setdefault"):
        declare.prepare()


# --- The command ---------------------------------------------------------------------------------------------------


def test_the_command_passes_its_arguments_and_the_database(
    shop: Any, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[str], str | None]] = []
    monkeypatch.setattr(main, "main", lambda given: seen.append((given, os.environ.get("DATABASE_URL"))))
    entry = database_of("postgresql://me:p%40ss@db.example:5433/shop")
    monkeypatch.setattr(connections["default"], "settings_dict", entry)
    for arguments in (["migrate"], ["ls", "--state", "pending"], ["up"], ["--stage", "prod", "ls"]):
        monkeypatch.setenv("DATABASE_URL", "")
        execute_from_command_line(["manage.py", "joblane", *arguments])
    monkeypatch.setenv("DATABASE_URL", "")
    call_command("joblane", "ls")
    monkeypatch.setenv("DATABASE_URL", "postgresql://given")
    call_command("joblane", "ls")
    own = "postgresql://me:p%40ss@db.example:5433/shop"
    assert seen == [
        (["migrate"], own),
        (["ls", "--state", "pending"], own),
        (["up"], ""),
        (["--stage", "prod", "ls"], ""),
        (["ls"], own),
        (["ls"], "postgresql://given"),
    ]
