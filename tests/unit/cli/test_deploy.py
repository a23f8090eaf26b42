"""Commands of `joblane` that need no stack: schemas of messages, and migrations."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from typer.testing import CliRunner

from joblane.cli.commands.deploy import _synthesised
from joblane.cli.main import app
from joblane.cli.usage import UsageError
from joblane.errors import DeclarationError
from joblane.local import env_file
from joblane.local.errors import LocalError, UnavailableError
from joblane.project import Project
from joblane.record.migrate import Migrated
from joblane.record.migrations import newest
from tests.world import mocked_aws


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in os.environ:
        if name.startswith("JOBLANE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(Project, "activate", lambda project: None)  # the tests name the folder of the handlers
    with mocked_aws(monkeypatch):
        yield


def jobs(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_schema_of_a_type_describes_its_message() -> None:
    schema = json.loads(jobs("schema", "data:export"))
    assert schema["required"] == ["type", "payload"]
    assert schema["properties"]["type"] == {"const": "data:export"}
    assert set(schema["properties"]["payload"]["properties"]) == {"tenant_id", "user_id", "export_type"}
    assert schema["properties"]["options"]["properties"]["max_retry"]["maximum"] == 3


def test_a_type_without_required_fields_needs_no_payload() -> None:
    assert json.loads(jobs("schema", "jobs:sweep"))["required"] == ["type"]


def test_references_inside_a_payloads_schema_resolve() -> None:
    for text in _documents(jobs("schema")):
        assert text.count('"#/$defs/') == 0 or '"$defs"' in text


def test_all_schemas_go_to_a_folder(tmp_path: Path) -> None:
    output = jobs("schema", "--out", str(tmp_path / "schemas"))
    assert json.loads((tmp_path / "schemas" / "data-export.schema.json").read_text())["title"].endswith("data:export")
    assert "user:invitation: " in output


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(DeclarationError, match="no task 'data:gone'"):
        jobs("schema", "data:gone")


def test_a_handler_that_cannot_be_imported_is_named_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = tmp_path / "broken_schema" / "data_export" / "handler.py"
    handler.parent.mkdir(parents=True)
    handler.write_text("undefined_name\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("JOBLANE_FUNCTIONS", "broken_schema")
    for arguments in ((), ("data:export",)):
        with pytest.raises(
            DeclarationError, match=r"^broken_schema/data_export/handler\.py, line 1: NameError: .*\nFix"
        ):
            jobs("schema", *arguments)


def _documents(text: str) -> list[str]:
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        _, end = decoder.raw_decode(text, at)
        found.append(text[at:end])
        at = end + 1
    return found


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("postgresql://x@127.0.0.1:1/x", "[Cc]onnection refused"),
        ("postgresql://x@127.0.0.1/x?auth=nope", "DATABASE_URL: auth: must be 'iam'"),
        ("postgresql://127.0.0.1/x?secret=nope", "DATABASE_URL: secret 'nope': .*ResourceNotFoundException"),
        ("mysql://127.0.0.1/x", "DATABASE_URL: postgresql://user:password@host:port/database is required"),
    ],
)
def test_a_database_that_cannot_be_migrated_is_reported_without_a_traceback(
    url: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", url)
    with pytest.raises(LocalError, match=f"Cannot migrate the database.*: .*{problem}"):
        jobs("migrate")


def test_without_an_address_all_sql_is_printed_without_a_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("JOBLANE_MIGRATIONS", "shop.migrations:upgrade")
    monkeypatch.setenv("JOBLANE_PREFIX", "shop")
    monkeypatch.setenv("JOBLANE_PROJECT", "shop-web")
    printed = jobs("migrate", "--sql")
    assert printed.startswith("-- This does not include the project's own migrations (shop.migrations:upgrade).")
    for statement in (
        "create schema joblane;",
        "CREATE TABLE joblane.alembic_version",
        "create table joblane.tasks",
        "values ('shop', 'shop-web')",
        "insert into joblane.task_types",
    ):
        assert statement in printed
    assert printed.rstrip().endswith("COMMIT;")


def test_the_sql_for_an_unreachable_database_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://x@127.0.0.1:1/x")
    with pytest.raises(LocalError, match=r"Cannot compare the database.*: .*Connection refused"):
        jobs("migrate", "--sql")


def test_a_project_without_functions_is_reported_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("JOBLANE_FUNCTIONS", "no_functions")
    with pytest.raises(DeclarationError, match=r"^there is no package 'no_functions'"):
        jobs("migrate", "--sql")


def test_a_schema_of_newer_code_is_reported_as_unchanged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://x@127.0.0.1:1/x")
    monkeypatch.setattr("joblane.record.migrate.migrate", lambda _, **__: Migrated(5, "0999", newer=True))
    assert jobs("migrate").startswith(
        f"The schema is at 0999, newer than this code ({newest()}): it was not changed.\n"
    )


def test_without_an_address_the_local_stacks_database_is_migrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with patch.dict(os.environ):
        monkeypatch.delenv("DATABASE_URL", raising=False)
        monkeypatch.setenv("JOBLANE_LOCAL", str(tmp_path))
        with pytest.raises(UnavailableError, match=r"DATABASE_URL is not set, and there is no .* Start `joblane dev`"):
            jobs("migrate")
        env_file.write(tmp_path / "env", {"DATABASE_URL": "postgresql://x@127.0.0.1:1/x"})
        with pytest.raises(LocalError, match=r"Cannot migrate the database.*: .*Connection refused"):
            jobs("migrate")


@pytest.mark.parametrize(
    ("output", "folder"), [({"output": ".joblane/cdk.out"}, ".joblane/cdk.out/dev"), ({}, "cdk.out/dev")]
)
def test_templates_go_where_cdk_json_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: dict[str, str], folder: str
) -> None:
    written = []
    (tmp_path / "cdk.json").write_text(json.dumps({"app": "x", **output, "context": {"stages": {"dev": {}}}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("joblane.cdk.preflight.read.synthesise", lambda _stage, folder, **_: written.append(folder))
    _synthesised("dev")
    assert written == [tmp_path / folder]


@pytest.mark.parametrize("given", ["web", "web=", "=111122223333.dkr.ecr"])
def test_an_image_without_a_name_or_an_address_is_a_usage_error(given: str) -> None:
    with pytest.raises(UsageError, match="--image: NAME=ADDRESS is required, not '"):
        _synthesised("dev", image=["shop=x@y", given])


def test_the_address_of_an_image_is_in_the_context_of_the_app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # given an app that prints its context
    program = "import os, sys; sys.stderr.write(os.environ['CDK_CONTEXT_JSON'])"
    context: dict[str, object] = {"stages": {"dev": {}}}
    (tmp_path / "cdk.json").write_text(json.dumps({"app": f"python -c {shlex.quote(program)}", "context": context}))
    monkeypatch.chdir(tmp_path)
    _, printed = _synthesised("dev", image=["web=a@sha256:b", "shop=c"])
    assert json.loads(printed) == context | {
        "stage": "dev",
        "deploys": True,
        "image.web": "a@sha256:b",
        "image.shop": "c",
    }
