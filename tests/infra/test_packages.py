"""The real zips: they hold all that the functions need, at Lambda's paths and for Lambda's processor.

Every interpreter here has the two folders, the packages of Lambda's runtime, and the standard library.
"""

from __future__ import annotations

import ast
import json
import re
import sys
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from joblane.cdk.constructs.migration import HANDLER as MIGRATE
from joblane.cdk.constructs.router import HANDLER
from joblane.cdk.constructs.task_function import ENTRY
from joblane.cdk.packaging import (
    LEFT_OUT_OF_CODE,
    LEFT_OUT_OF_LAYER,
    LEFT_OUT_OF_LIBRARY,
    LIBRARY,
    RUNNING,
    WHEEL_PLATFORMS,
    WITHOUT_SOURCES,
    check_layer,
)
from joblane.local.locked import PROVIDED, PYTHON
from joblane.local.postgres import Postgres
from joblane.tasks.discovery import discover, discover_functions
from tests.builders.events import event, record
from tests.builders.http_events import claims, http_event
from tests.conftest import administer
from tests.unit.saas.servers import served
from tests.unpacked import BUILT, PROJECT, Unpacked, installed, layer, unpack

AARCH64 = 183
"""``e_machine`` of an ELF header, two bytes at offset 18. Source: System V ABI, *elf*."""
GLIBC = (2, 34)
"""The version in Amazon Linux 2023, on which Lambda runs Python from 3.12. Source: AWS, *Lambda runtimes*."""
EXTRAS = (
    *("asgiref.", "asyncpg.", "django.", "fastapi.", "greenlet.", "opentelemetry.", "psycopg.", "sentry_sdk."),
    *("sqlalchemy.ext.asyncio.", "sqlalchemy.util.await_only.", "sqlalchemy.util.greenlet_spawn."),
    *(
        "joblane.django.",
        "joblane.fastapi.",
        "joblane.otel.provider.",
        "joblane.otel.spans.",
        "joblane.sentry.reports.",
        "joblane.record.driver.async_connection.",
        "joblane.record.driver.async_database.",
    ),
)
NOWHERE = "postgresql://jobs@127.0.0.1:1/jobs"


@pytest.fixture(scope="session")
def unpacked(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Unpacked:
    return unpack(tmp_path_factory.mktemp("lambda"))


# --- Contents ------------------------------------------------------------------------------------------------------


def test_the_layer_holds_no_package_that_the_runtime_brings(unpacked: Unpacked) -> None:
    installed = {path.name for path in unpacked.layer.iterdir()}
    assert {"alembic", "aws_lambda_powertools", "pg8000", "pydantic", "sqlalchemy"} <= installed
    assert not installed & set(PROVIDED)


def test_the_code_holds_nothing_of_operators_and_tests(unpacked: Unpacked) -> None:
    parts = {part for path in unpacked.code.rglob("*.py") for part in path.relative_to(unpacked.code).parts}
    assert not parts & {*LEFT_OUT_OF_CODE, *LEFT_OUT_OF_LIBRARY}
    assert {path.name for path in unpacked.code.iterdir()} == {"functions", "joblane", "saas"}


def test_the_code_holds_every_file_of_the_migrations(unpacked: Unpacked) -> None:
    source, target = LIBRARY / "record" / "migrations", unpacked.code / "joblane" / "record" / "migrations"
    files = {path.relative_to(source) for path in source.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert {Path("env.py"), Path("script.py.mako")} < files
    assert files == {path.relative_to(target) for path in target.rglob("*") if path.is_file() and path.suffix != ".pyc"}


@pytest.mark.skipif(RUNNING != PYTHON, reason=f"bytecode needs Python {PYTHON}")
@pytest.mark.parametrize("part", ["code", "layer"])
def test_every_module_has_bytecode_that_knows_no_path_of_this_machine(part: str, unpacked: Unpacked) -> None:
    folder, mounted_at = {"code": (unpacked.code, b"/var/task/"), "layer": (unpacked.layer, b"/opt/python/")}[part]
    modules = modules_of(folder)
    assert modules
    for module in modules:
        below = folder / module.parent / "__pycache__" / f"{module.stem}.{sys.implementation.cache_tag}.pyc"
        content = (below if (folder / module).exists() else (folder / module).with_suffix(".pyc")).read_bytes()
        assert content[4:8] == b"\x01\0\0\0", f"{module}: read only after a check of its source"  # PEP 552
        assert mounted_at + str(module).encode() in content
        assert str(BUILT).encode() not in content


def modules_of(folder: Path) -> set[Path]:
    """Return the path of each module, that of its source even if it has only bytecode."""
    bytecode = (path for path in folder.rglob("*.pyc") if path.parent.name != "__pycache__")
    return {path.relative_to(folder).with_suffix(".py") for path in (*folder.rglob("*.py"), *bytecode)}


@pytest.mark.skipif(RUNNING != PYTHON, reason=f"bytecode needs Python {PYTHON}")
def test_joblanes_own_packages_have_no_sources_in_the_layer_and_other_packages_have(unpacked: Unpacked) -> None:
    packages = {path.relative_to(unpacked.layer).parts[0] for path in unpacked.layer.rglob("*.py")}
    assert packages.isdisjoint(WITHOUT_SOURCES)
    assert {"cronsim", "jmespath", "typing_extensions.py"} <= packages
    # and a traceback has the lines of a frame in them
    out = unpacked.run(RAISE)
    assert re.search(r'File ".*/opt/python/pg8000/core\.py", line \d+, in \w+\n', out)


RAISE = """
import traceback
import pg8000.native
try:
    pg8000.native.Connection("nobody", host="127.0.0.1", port=1)
except Exception:
    print(traceback.format_exc())
"""


# --- Imports -------------------------------------------------------------------------------------------------------


def imports(path: Path, root: Path) -> Iterator[tuple[str, str | None]]:
    """Return each import of a file, except those for type checkers: a module, and a name in it or None."""
    package = path.relative_to(root).parent.parts
    waiting: list[ast.AST] = [ast.parse(path.read_text())]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)
        waiting += ast.iter_child_nodes(node)


def is_of_extra(module: str) -> bool:
    """True for a module of an extra, which a project adds to its own lock, and for a module that imports one."""
    return f"{module}.".startswith(EXTRAS)


IMPORT_ALL = """
import importlib, json
for module, name in json.load(open(sys.argv[1])):
    found = importlib.import_module(module)
    if name and not hasattr(found, name):
        importlib.import_module(f"{module}.{name}")
"""


def test_every_import_of_the_code_including_lazy_ones_is_in_the_zips(unpacked: Unpacked, tmp_path: Path) -> None:
    files = [
        path
        for path in unpacked.code.rglob("*.py")
        if "versions" not in path.parts and not is_of_extra(module_name(path, unpacked.code))
    ]
    found = {
        (module, name)
        for path in files
        for module, name in imports(path, unpacked.code)
        if not is_of_extra(f"{module}.{name}")
    }
    assert {("boto3", None), ("alembic", "command"), ("sqlalchemy", "create_engine")} <= found
    (tmp_path / "imports.json").write_text(json.dumps(sorted(found, key=str)))
    unpacked.run(IMPORT_ALL, str(tmp_path / "imports.json"), DATABASE_URL=NOWHERE, JOBLANE_TASK="data:export")


def test_no_module_of_the_layer_imports_an_excluded_module(unpacked: Unpacked) -> None:
    # given the excluded modules, as they are in the development environment
    site = installed("sqlalchemy").parent
    packages = {module.parts[0] for module in modules_of(unpacked.layer) if len(module.parts) > 1}
    roots = {
        module_name(path, site)
        for pattern in LEFT_OUT_OF_LAYER
        for package in packages
        for path in site.glob(pattern if "**" not in pattern else f"{package}/{pattern}")
        if path.is_relative_to(site / package) and (path.is_dir() or path.suffix == ".py")
    }
    assert {"sqlalchemy.dialects.mysql", "sqlalchemy.testing", "alembic.testing", "pydantic.mypy"} <= roots

    # when the modules of the layer are read, then none of them imports an excluded module
    words = re.compile(rf"\b({'|'.join({root.rpartition('.')[2] for root in roots})})\b")
    broken = [
        (path, module, name)
        for path in (source_of(module, unpacked.layer, site) for module in modules_of(unpacked.layer))
        if words.search(path.read_text())
        for module, name in imports(path, site if path.is_relative_to(site) else unpacked.layer)
        if any(f"{module}.{name}.".startswith(f"{root}.") for root in roots)
    ]
    assert broken == []


def source_of(module: Path, layer: Path, site: Path) -> Path:
    """Return the source of a module, that of the development environment if the layer has only its bytecode."""
    return layer / module if (layer / module).exists() else site / module


def module_name(path: Path, root: Path) -> str:
    return ".".join(path.relative_to(root).with_suffix("").parts)


IMPORT = """
import importlib
module, _, name = sys.argv[1].rpartition(".")
assert callable(getattr(importlib.import_module(module), name))
"""
OWN = [declared.handler for declared in discover_functions().values()]


@pytest.mark.parametrize("type_", [*discover()])
def test_every_task_is_imported_from_the_zips_without_boto3(type_: str, unpacked: Unpacked) -> None:
    unpacked.run(IMPORT, ENTRY, provided=False, JOBLANE_TASK=type_, DATABASE_URL=NOWHERE)


@pytest.mark.parametrize("handler", [HANDLER, MIGRATE, *OWN])
def test_every_other_handler_is_imported_from_the_zips_without_boto3(handler: str, unpacked: Unpacked) -> None:
    unpacked.run(IMPORT, handler, provided=False)


LATE = """
from joblane.worker.lambda_entry import handler
early = {"dateutil", "scramp", "importlib.metadata"} & sys.modules.keys()
import importlib.metadata, pg8000
assert pg8000.__version__ == importlib.metadata.version("pg8000")
print(early)
"""
PLUGIN = """
sys.path.insert(0, sys.argv[1])
from joblane.worker.lambda_entry import handler
import plugin
print(len(plugin.validated))
"""


def test_a_start_imports_no_package_that_few_functions_need(unpacked: Unpacked) -> None:
    assert unpacked.run(LATE, JOBLANE_TASK=EXPIRY, DATABASE_URL=NOWHERE) == "set()\n"


def test_a_start_finds_the_plugins_of_pydantic(unpacked: Unpacked, tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text(
        "validated = []\n\n\nclass Plugin:\n    def new_schema_validator(self, *arguments, **options):\n"
        "        validated.append(arguments)\n        return None, None, None\n\n\nfound = Plugin()\n"
    )
    (tmp_path / "plugin-1.dist-info").mkdir()
    (tmp_path / "plugin-1.dist-info" / "entry_points.txt").write_text("[pydantic]\nours = plugin:found\n")
    out = unpacked.run(PLUGIN, str(tmp_path), JOBLANE_TASK=EXPIRY, DATABASE_URL=NOWHERE)
    assert int(out) > 0


def test_an_interpreter_without_the_zips_finds_nothing(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="ModuleNotFoundError"):
        Unpacked(tmp_path, tmp_path, tmp_path).run(IMPORT, HANDLER)


# --- Runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def empty_database(postgres: Postgres) -> Iterator[str]:
    """Address of a database without a schema."""
    administer(postgres, "create database packages")
    yield postgres.database_url("packages")
    administer(postgres, "drop database packages with (force)")


EXPIRY = "system_user:expiry"
WORK = """
import json, os
class Context:
    aws_request_id, memory_limit_in_mb = "request", "512"
    def get_remaining_time_in_millis(self):
        return 60_000

given, url = json.loads(sys.argv[1]), os.environ["DATABASE_URL"]
from joblane.record.migrate import migrate
migrate(url)
migrate(url)

from joblane.worker.lambda_entry import handler as work
from functions.api.handler import handler as answer
from joblane.record.driver.database import Database
found = {
    "message": work(given["message"], Context()),
    "requests": [answer(event, Context()) for event in given["requests"]],
    "rows": Database(url).get().run("select id, state, runs from joblane.tasks"),
}
print(json.dumps(found))
"""


def test_schema_task_and_api_work_from_the_zips_only(unpacked: Unpacked, empty_database: str) -> None:
    # given an empty database, a message for a task that uses SQLAlchemy, and two requests
    given = {
        "message": event(record({"type": EXPIRY, "id": "one", "payload": {}}, "jobs-low-system-user-expiry")),
        "requests": [
            http_event("GET", "/openapi.json", who=claims()),
            http_event("GET", "/tasks/00000000-0000-4000-8000-000000000000", who=claims("ann", "0" * 32, "owner")),
        ],
    }

    # when the migrations run twice, and then the task and the API
    arguments = {"DATABASE_URL": empty_database, "JOBLANE_TASK": EXPIRY, "JOBLANE_MIGRATIONS": str(PROJECT.migrations)}
    arguments["JOBLANE_SWEEP_MINUTES"] = "5"  # no wake-up, which boto3 would send
    out = unpacked.run(WORK, json.dumps(given), provided=False, **arguments)

    # then the task is completed and both requests have an answer
    found = json.loads(out.splitlines()[-1])
    assert found["message"] == {"batchItemFailures": []}
    assert found["rows"] == [["one", "completed", 1]]
    document, missing = found["requests"]
    assert "/exports" in json.loads(document["body"])["paths"]
    assert (document["statusCode"], missing["statusCode"]) == (200, 404)


MAIL = """
import os
from saas.mail import Mail, send
print(send(Mail("ann@example.org", "Hello", "Text", key="key"), os.environ).message_id)
"""


def test_a_mail_goes_through_ses_by_the_boto3_of_the_runtime(unpacked: Unpacked) -> None:
    requests: list[dict[str, Any]] = []

    class Ses(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"MessageId": "ses-1"}')

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Ses)
    with served(server):
        out = unpacked.run(
            MAIL,
            AWS_ENDPOINT_URL=f"http://127.0.0.1:{server.server_port}",
            AWS_ACCESS_KEY_ID="test",
            AWS_SECRET_ACCESS_KEY="test",
            AWS_DEFAULT_REGION="eu-central-1",
            EMAIL_PROVIDER="ses",
            EMAIL_FROM_ADDRESS="no-reply@example.org",
        )
    assert out.strip() == "ses-1"
    assert requests[0]["Content"]["Simple"]["Subject"]["Data"] == "Hello"


# --- The layer for AWS ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def for_aws(uv: str) -> Path:
    return layer(WHEEL_PLATFORMS["arm64"]).path


def test_every_wheel_and_shared_object_for_aws_is_for_its_processor(for_aws: Path) -> None:
    check_layer(for_aws, "arm64")
    archive = zipfile.ZipFile(for_aws)
    objects = [name for name in archive.namelist() if ".so" in Path(name).suffixes]
    machines = {name: int.from_bytes(archive.read(name)[18:20], "little") for name in objects}
    assert set(machines.values()) == {AARCH64}, machines


def test_no_shared_object_for_aws_needs_a_newer_glibc_than_lambdas(for_aws: Path) -> None:
    # The file contains the versions of its symbols as names, independent of a wheel's tag.
    archive = zipfile.ZipFile(for_aws)
    objects = [name for name in archive.namelist() if ".so" in Path(name).suffixes]
    assert len(objects) >= 3
    wanted = {
        name: max(tuple(map(int, version)) for version in re.findall(rb"GLIBC_(\d+)\.(\d+)", archive.read(name)))
        for name in objects
    }
    assert {name: version for name, version in wanted.items() if version > GLIBC} == {}


def test_the_layer_for_aws_holds_the_same_modules_as_the_local_layer(
    for_aws: Path, unpacked: Unpacked, tmp_path: Path
) -> None:
    unpacked_for_aws = tmp_path / "python"
    zipfile.ZipFile(for_aws).extractall(tmp_path)
    assert modules_of(unpacked_for_aws) == modules_of(unpacked.layer)
