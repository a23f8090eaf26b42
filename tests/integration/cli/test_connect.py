"""Connecting a command to its inspector, and the errors if that fails."""

from __future__ import annotations

import getpass
import os
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import boto3
import pytest
from botocore.exceptions import ClientError, EndpointConnectionError
from pg8000.exceptions import DatabaseError

from joblane.cli.connect import connect
from joblane.errors import DatabaseUnavailableError
from joblane.functions.control import answering as control
from joblane.inspector.errors import SchemaError
from joblane.inspector.inspector import Inspector
from joblane.inspector.remote import RemoteInspector
from joblane.inspector.scope import Scope
from joblane.local import env_file
from joblane.local.errors import ForbiddenError, LocalError, MisuseError, UnavailableError
from joblane.local.stack import LocalStack
from joblane.project import Project
from joblane.record.driver import waking
from joblane.record.driver.database import Database
from joblane.record.migrations import newest
from joblane.tasks.discovery import discover
from tests.pages import ROOT

NOWHERE = "postgresql://jobs:s3cret@127.0.0.1:1/jobs"


@pytest.fixture(autouse=True)
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty folder without settings of AWS or the database; the environment is restored afterwards."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "JOBLANE_", "DATABASE_"))]:
        del os.environ[name]
    os.environ["AWS_CONFIG_FILE"] = os.environ["AWS_SHARED_CREDENTIALS_FILE"] = str(tmp_path / "nothing")
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    monkeypatch.chdir(tmp_path)
    yield
    os.environ.clear()
    os.environ.update(before)


def here(**options: str) -> Inspector:
    made = connect(**{"stage": None, "profile": None, "region": None, **options})
    assert isinstance(made, Inspector)
    return made


def up(folder: Path, url: str, **variables: str) -> Path:
    """The file that `joblane up` writes."""
    stack = LocalStack(folder / ".joblane", project=Project(ROOT), aws_port=4604, postgres_port=5604)
    (stack.folder / "postgres").mkdir(parents=True)
    (stack.folder / "postgres" / "password").write_text("s3cret")
    env_file.write(stack.env_file, {**stack.environment, "DATABASE_URL": url, **variables})
    return stack.env_file


# --- Here ----------------------------------------------------------------------------------------------------------


def test_the_environment_names_the_database(database_url: str) -> None:
    os.environ.update(DATABASE_URL=database_url, JOBLANE_PREFIX="acme", AWS_DEFAULT_REGION="eu-central-1")
    scope = here()._scope
    assert scope.connection.run("select count(*) from joblane.tasks") == [[0]]
    assert (scope.prefix, scope.region) == ("acme", "eu-central-1")
    assert scope.who == f"{getpass.getuser()}@{socket.gethostname()}"
    assert scope.tasks.keys() == discover().keys()
    scope.database.drop()


@pytest.mark.parametrize("folder", [".", "src/deep"])
def test_after_up_no_variable_has_to_be_set(
    folder: str, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cdk.json").touch()  # marks the folder as a project
    up(tmp_path, database_url)
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / folder)
    os.environ.update(AWS_PROFILE="production", AWS_SESSION_TOKEN="of another account", AWS_REGION="eu-west-1")
    scope = here()._scope
    assert scope.connection.run("select 1") == [[1]]
    assert (scope.prefix, scope.region) == ("jobs", "us-east-1")
    # the AWS settings of the shell are those of another account
    assert {name: os.environ[name] for name in os.environ if name.startswith("AWS_")} == {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:4604",
        "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:4604",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
    }
    scope.database.drop()


def test_the_environment_takes_precedence_over_the_file(tmp_path: Path, database_url: str) -> None:
    up(tmp_path, NOWHERE)
    os.environ["DATABASE_URL"] = database_url
    scope = here()._scope
    assert scope.connection.run("select 1") == [[1]]
    assert "AWS_ENDPOINT_URL" not in os.environ
    scope.database.drop()


def test_the_inspector_uses_the_schedules_of_the_stage(tmp_path: Path, database_url: str) -> None:
    up(tmp_path, database_url, JOBLANE_SWEEP_MINUTES="60")
    scope = here()._scope
    assert [schedule.text for schedule in scope.tasks["jobs:sweep"].schedules] == ["0 * * * *"]
    scope.database.drop()


def test_a_list_of_tasks_imports_no_handler(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    discovered = Mock(return_value={})
    monkeypatch.setattr("joblane.tasks.discovery.discover", discovered)
    os.environ["DATABASE_URL"] = database_url
    inspector = here()
    inspector.tasks()
    assert discovered.call_count == 0
    # and all operations that need them import them once
    assert (inspector.types(), inspector.types(), discovered.call_count) == ((), (), 1)
    inspector._scope.database.drop()


def test_without_any_database_the_message_names_both_ways_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(LocalError) as caught:
        here()
    for name in (str(tmp_path / ".joblane" / "env"), "`joblane up`", "--stage"):
        assert name in str(caught.value)


def test_an_unavailable_database_is_reported_with_the_source_of_its_address(tmp_path: Path) -> None:
    file = up(tmp_path, NOWHERE)
    with pytest.raises(
        LocalError, match=rf"Cannot connect to the database at 127\.0\.0\.1:1 \(from {file}\): .*`joblane up`"
    ) as caught:
        here()
    assert "s3cret" not in str(caught.value)
    os.environ["DATABASE_URL"] = NOWHERE
    with pytest.raises(LocalError, match=r"Cannot connect to .* \(from DATABASE_URL of the environment\): ") as caught:
        here()
    assert "local stack" not in str(caught.value)


def test_a_database_of_rds_that_is_asleep_is_waited_for(
    database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given an address of RDS that answers the third try only
    tries, connect_once = [], Database.get

    def connect_at_third(self: Database) -> object:
        tries.append(1)
        if len(tries) < 3:
            raise TimeoutError
        return connect_once(self)

    monkeypatch.setattr(Database, "get", connect_at_third)
    monkeypatch.setattr(waking, "PAUSE_SECONDS", 0)
    monkeypatch.setattr("joblane.record.driver.login.RDS_HOST", re.compile(r"127\.0\.0\.1"))
    os.environ["DATABASE_URL"] = database_url
    # when
    here()._scope.database.drop()
    # then the person who waits knows why
    assert len(tries) >= 3
    assert capsys.readouterr().err.count("The database does not answer yet. If it is asleep, it starts within a") == 1


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda url: url.rpartition("/")[0] + "/gone", 'database "gone" does not exist'),
        (lambda url: re.sub(r":[^:@/]+@", ":wrong@", url), "password authentication failed"),
        (lambda url: re.sub(r":[^:@/]+@", "@", url), "the server asks for a password, but the URL has none"),
    ],
    ids=["no database", "wrong password", "no password"],
)
def test_a_refused_login_is_reported_as_such(change: Callable[[str], str], why: str, database_url: str) -> None:
    os.environ["DATABASE_URL"] = change(database_url)
    with pytest.raises(UnavailableError, match=f"Cannot connect to the database at .*: .*{why}") as caught:
        here()
    assert "local stack" not in str(caught.value)


def test_if_no_connection_is_free_the_advice_says_what_frees_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = up(tmp_path, NOWHERE)
    full = DatabaseError({"C": "53300", "M": "sorry, too many clients already"})
    monkeypatch.setattr(Database, "get", Mock(side_effect=full))
    with pytest.raises(UnavailableError) as caught:
        here()
    text = str(caught.value)
    assert f"(from {file}): sorry, too many clients already (53300). Close connections, or raise its" in text
    assert "pg_stat_activity" in text
    assert "local stack" not in text
    # and so do an operation of a page that is open, and the control API
    with pytest.raises(DatabaseUnavailableError, match=r"already .53300.; close connections, or raise its max_conn"):
        Inspector(Scope(Database("postgresql://jobs@127.0.0.1:1/jobs"), Mock(), "jobs", {}, "op")).pauses()
    monkeypatch.setattr(control, "WAKING_SECONDS", 0)
    with pytest.raises(DatabaseUnavailableError, match=r"; close connections, or raise .*\. Nothing was done"):
        control.connect_first(Database("postgresql://jobs@127.0.0.1:1/jobs"))


def test_a_schema_of_newer_code_gives_a_warning(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    os.environ["DATABASE_URL"] = database_url
    scope = here()._scope
    assert capsys.readouterr().err == ""
    scope.connection.run("update joblane.alembic_version set version_num = '0999'")
    scope.database.drop()
    here()._scope.database.drop()
    assert capsys.readouterr().err == f"Warning: the schema is at 0999, newer than this code ({newest()}).\n"


def test_an_invalid_prefix_is_reported_before_the_address(database_url: str) -> None:
    os.environ.update(DATABASE_URL=database_url, JOBLANE_PREFIX="Bad_Prefix")
    with pytest.raises(LocalError, match=r"^JOBLANE_PREFIX is wrong: prefix: 'Bad_Prefix' is not lower-case"):
        here()


def test_a_prefix_other_than_the_local_stack_s_is_refused(tmp_path: Path, database_url: str) -> None:
    file = up(tmp_path, database_url)
    os.environ["JOBLANE_PREFIX"] = "other"
    with pytest.raises(MisuseError, match=f"JOBLANE_PREFIX is other, and the local stack of {file} has jobs: unset"):
        here()
    assert "DATABASE_URL" not in os.environ


def test_a_file_that_others_may_read_or_write_is_refused(tmp_path: Path, database_url: str) -> None:
    file = up(tmp_path, database_url)
    for mode in (0o644, 0o620, 0o602):
        file.chmod(mode)
        with pytest.raises(LocalError, match=rf"{file} is not read: .*its mode is {mode:04o}.*Remove it"):
            here()
    assert "DATABASE_URL" not in os.environ


def test_a_file_of_another_user_is_refused(tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = up(tmp_path, database_url)
    monkeypatch.setenv("JOBLANE_LOCAL", str(file.parent))
    monkeypatch.setattr(os, "geteuid", lambda: file.stat().st_uid + 1)
    with pytest.raises(LocalError, match="it belongs to another user"):
        here()


def test_only_known_names_are_read_from_the_file(tmp_path: Path, database_url: str) -> None:
    """A cloned project could contain a file that starts a program: by `credential_process`, or an editor."""
    # given
    programs = {"AWS_CONFIG_FILE": "evil", "EDITOR": "evil", "BROWSER": "evil", "LD_PRELOAD": "evil", "PATH": "evil"}
    before = {name: os.environ.get(name) for name in programs}
    up(tmp_path, database_url, EXPORT_BUCKET="jobs-exports", **programs)
    # when
    here()._scope.database.drop()
    # then
    assert {name: os.environ.get(name) for name in programs} == {**before, "AWS_CONFIG_FILE": None}
    assert os.environ["EXPORT_BUCKET"] == "jobs-exports"  # a setting declared by tasks


def test_an_invalid_address_is_reported(tmp_path: Path) -> None:
    os.environ["DATABASE_URL"] = "mysql://localhost/jobs"
    with pytest.raises(
        LocalError, match="postgresql://user:password@host:port/database is required, and DATABASE_URL of"
    ):
        here()


@pytest.mark.parametrize(
    ("revision", "problem"),
    [
        ("0000", r"at revision 0000 and this code needs \d{4}: run `joblane migrate`"),
        (
            "0001",
            r"at revision 0001, like this code, but tables, columns or functions of the schema joblane are missing",
        ),
        ("0999", r"at revision 0999, newer than this code \(0001\), and lacks a table.*: use the version"),
    ],
)
def test_a_database_that_lacks_tables_is_reported_with_its_revision(
    database_url: str, revision: str, problem: str
) -> None:
    os.environ["DATABASE_URL"] = database_url
    inspector = here()
    inspector._scope.connection.run("drop table joblane.task_attempts cascade")
    inspector._scope.connection.run("drop table joblane.audit, joblane.tasks cascade")
    inspector._scope.connection.run(f"update joblane.alembic_version set version_num = '{revision}'")
    with pytest.raises(SchemaError, match=problem):
        inspector.logs("a")
    inspector._scope.database.drop()


def test_options_of_a_stage_are_refused_for_the_local_stack(tmp_path: Path) -> None:
    up(tmp_path, NOWHERE)
    for option in ("profile", "region"):
        with pytest.raises(LocalError, match="--profile and --region are for a stage on AWS: give --stage as well"):
            here(**{option: "any"})


# --- On AWS: the stages are those of this project's cdk.json -------------------------------------------------------


def there(stage: str = "dev", **options: str) -> RemoteInspector:
    os.chdir(ROOT)  # its cdk.json has the stages
    made = connect(**{"stage": stage, "profile": None, "region": "eu-central-1", **options})
    assert isinstance(made, RemoteInspector)
    return made


class Stacks:
    """CloudFormation with a fixed answer."""

    def __init__(self, answer: dict[str, Any] | Exception) -> None:
        self._answer, self.asked = answer, ""

    def describe_stacks(self, *, StackName: str) -> dict[str, Any]:  # noqa: N803 - boto3's name
        self.asked = StackName
        if isinstance(self._answer, Exception):
            raise self._answer
        return {"Stacks": [self._answer]}

    def close(self) -> None: ...


def answering(monkeypatch: pytest.MonkeyPatch, answer: dict[str, Any] | Exception) -> Stacks:
    os.environ.update(AWS_ACCESS_KEY_ID="AKIAOPERATOR", AWS_SECRET_ACCESS_KEY="secret")
    made = Stacks(answer)
    monkeypatch.setattr(boto3.session.Session, "client", lambda self, service, config: made)
    return made


def refused(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "DescribeStacks")


def test_a_stage_is_reached_at_the_address_in_the_outputs_of_its_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    url = "https://a1b2c3.execute-api.eu-central-1.amazonaws.com"
    outputs = [
        {"OutputKey": "ControlUrl", "OutputValue": url},
        {"OutputKey": "PageUrl", "OutputValue": "https://page.example.org"},
    ]
    stacks = answering(monkeypatch, {"StackStatus": "CREATE_COMPLETE", "Outputs": outputs})
    keys = "aws_access_key_id = AKIAOPERATOR\naws_secret_access_key = secret"
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(f"[profile own]\nca_bundle = /etc/own.pem\n{keys}\n")
    remote = there(profile="own")
    assert stacks.asked == "jobs-dev-control"
    assert remote._http._verify == "/etc/own.pem"  # type: ignore[attr-defined]
    signed = remote._signed(f"{url}/view/pauses", b"{}")
    assert "AKIAOPERATOR" in str(signed.headers["Authorization"])
    assert "/eu-central-1/execute-api/" in str(signed.headers["Authorization"])
    assert remote.page_url == "https://page.example.org"


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (
            refused("ValidationError", "Stack with id jobs-dev-control does not exist"),
            "DescribeStacks of jobs-dev-control in eu-central-1: there is no such stack. Deploy stage 'dev'",
        ),
        (
            refused("AccessDenied", "User: ann is not authorized to perform: cloudformation:DescribeStacks"),
            "The caller needs cloudformation:DescribeStacks on it",
        ),
        (EndpointConnectionError(endpoint_url="https://cloudformation"), "Check the network, the proxy, and --region"),
        (
            {"StackStatus": "ROLLBACK_COMPLETE"},
            "the stack is ROLLBACK_COMPLETE and has no output ControlUrl; deploy stage 'dev'",
        ),
    ],
    ids=["not deployed", "denied", "unreachable", "half deployed"],
)
def test_without_an_address_the_message_names_the_call_and_the_remedy(
    answer: Any, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answering(monkeypatch, answer)
    with pytest.raises(ForbiddenError if "needs cloudformation" in expected else UnavailableError) as caught:
        there()
    assert expected in str(caught.value)


def test_an_unknown_stage_is_reported_with_the_known_stages() -> None:
    with pytest.raises(LocalError, match="no stage 'staging'; its stages on AWS: dev, prod"):
        there("staging")
    with pytest.raises(LocalError, match="'local' is the local stack of this machine: leave --stage out"):
        there("local")


def test_missing_credentials_profile_or_region_are_reported() -> None:
    with pytest.raises(LocalError, match=r"no AWS credentials to sign with\. Give --profile"):
        there()
    with pytest.raises(LocalError, match=r"no AWS credentials .*\(nobody\).*Give --profile"):
        there(profile="nobody")
    os.environ.update(AWS_ACCESS_KEY_ID="AKIAOPERATOR", AWS_SECRET_ACCESS_KEY="secret")
    with pytest.raises(LocalError, match="No AWS region is set: give --region"):
        connect(stage="dev", profile=None, region=None)


def test_an_unknown_profile_or_region_is_a_usage_error() -> None:
    with pytest.raises(MisuseError, match="nobody"):
        there(profile="nobody")
    os.environ.update(AWS_ACCESS_KEY_ID="AKIAOPERATOR", AWS_SECRET_ACCESS_KEY="secret")
    with pytest.raises(MisuseError, match="--region: 'no_region' is not the name of an AWS region"):
        there(region="no_region")


def test_both_region_variables_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    os.environ.update(AWS_ACCESS_KEY_ID="AKIAOPERATOR", AWS_SECRET_ACCESS_KEY="secret", AWS_REGION="eu-west-1")
    answering(monkeypatch, ClientError({"Error": {"Code": "AccessDenied", "Message": "no"}}, "DescribeStacks"))
    with pytest.raises(ForbiddenError, match="in eu-west-1"):
        connect(stage="dev", profile=None, region=None)
