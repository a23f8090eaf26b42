"""Exit statuses, the help, completion, and their imports."""

from __future__ import annotations

import json
import os
import platform
import re
import shlex
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from io import FileIO, TextIOWrapper
from pathlib import Path

import pytest
from pg8000.exceptions import DatabaseError, InterfaceError

import joblane
from joblane.cli import connect as connecting
from joblane.cli import options, target
from joblane.cli.commands import actions
from joblane.cli.exits import MEANINGS, Exit, exit_of
from joblane.cli.main import COMMANDS, main
from joblane.cli.terminal import Output, short
from joblane.errors import (
    DatabaseUnavailableError,
    DeclarationError,
    DuplicateTaskError,
    EnqueueError,
    JobError,
    LaneError,
    PayloadError,
    SendError,
    TaskIdConflictError,
    UnknownTaskError,
    UnknownTypeError,
)
from joblane.inspector.durations import duration, moment
from joblane.inspector.errors import ActionError, AwsCallError, BusyError, SelectionError
from joblane.inspector.filter import BulkAction, PauseScope
from joblane.local.errors import ForbiddenError, LocalError, MisuseError, UnavailableError
from joblane.names import Queue
from joblane.project import ProjectError
from joblane.record import sql_functions
from joblane.record.migrations import newest
from joblane.record.row.states import State
from joblane.settings import MissingSettingError
from joblane.tasks.discovery import discover
from tests.inspector import FakeInspector
from tests.pages import ROOT, table
from tests.unit.cli.conftest import Run


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (UnknownTaskError("a"), 3),
        (ActionError("a", "run", State.ACTIVE, [], None), 4),
        (UnknownTypeError("no task 'data:gone'"), 3),
        (SelectionError("limit", "1 to 500"), 2),
        (SelectionError("filter", "no task matches; nothing was begun"), 3),
        (SelectionError("types", "there is no task type 'data:gone'"), 3),
        (DatabaseUnavailableError("the database is unavailable"), 5),
        (SendError("jobs-low-jobs-sweep: Could not connect"), 5),
        (MissingSettingError("DATABASE_URL", "what", "x"), 5),
        (ConnectionRefusedError(111, "Connection refused"), 5),
        (InterfaceError("network error"), 5),
        (DatabaseError({"C": "57P01"}), 5),
        (FileNotFoundError(2, "No such file", "x"), 1),
        (PayloadError("payload", "x"), 1),
        (TaskIdConflictError("a"), 1),
        (DuplicateTaskError("a", "active"), 1),
        (DeclarationError("x"), 1),
        (EnqueueError("on_conflict", "'x' is not one of raise, return, replace"), 2),
        (LaneError("data:export", "low", ["default"]), 2),
        (JobError("x"), 1),
        (LocalError("x"), 1),
        (ProjectError("x"), 1),
        (MisuseError("x"), 2),
        (UnavailableError("x"), 5),
        (ForbiddenError("x"), 6),
        (BusyError("task 'a'"), 4),
        (AwsCallError("SendMessage", "no"), 5),
        (AwsCallError("SendMessage", "no", denied=True), 6),
        (DatabaseError({"C": "42601"}), None),
        (ZeroDivisionError(), None),
    ],
)
def test_each_error_has_its_status_and_a_bug_has_none(error: Exception, expected: int | None) -> None:
    assert exit_of(error) == expected


def test_an_unreachable_stack_ends_with_5(jobs: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(**_: object) -> None:
        raise UnavailableError("There are no AWS credentials to sign with.")

    monkeypatch.setattr(connecting, "connect", connect)
    ran = jobs("show", "x")
    assert (ran.code, ran.err) == (5, "joblane: There are no AWS credentials to sign with.\n")


def test_for_an_unavailable_database_it_says_what_to_check(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = DatabaseUnavailableError("the database does not answer")
    ran = jobs("show", "x")
    assert ran.code == 5
    assert "joblane status" in ran.err


def test_a_bug_is_not_hidden(jobs: Run, stub: FakeInspector) -> None:
    stub.answers["task"] = ZeroDivisionError()
    with pytest.raises(ZeroDivisionError):
        jobs("show", "x")


def test_the_table_is_in_the_help_and_in_the_documentation(jobs: Run) -> None:
    help_ = jobs("--help", columns=120).out
    for code, meaning in MEANINGS.items():
        assert re.search(rf"^ +{code.value}  {re.escape(meaning)}$", help_, re.M)
    rows = table(ROOT / "docs" / "reference" / "command-line.md", "Exit status")
    assert [(int(code), meaning) for code, meaning in rows] == [(code, text) for code, text in MEANINGS.items()]
    assert set(Exit) == set(MEANINGS)


def test_the_version_names_the_functions_that_doctor_names(jobs: Run) -> None:
    found = json.loads(jobs("--version", "--json").out)
    assert found == {
        "version": joblane.__version__,
        "functions": sql_functions.VERSION,
        "revision": newest(),
        "python": platform.python_version(),
    }
    printed = jobs("--stage", "dev", "--version").out
    assert all(value in printed for value in found.values())
    assert jobs("--json", "ls").code == Exit.USAGE


def test_the_help_lists_every_command_under_its_heading(jobs: Run) -> None:
    help_ = jobs("--help").out
    for heading, commands in COMMANDS.items():
        section = help_.partition(f"\n{heading}:\n")[2].partition("\n\n")[0]
        assert set(commands) <= {line.split()[0] for line in section.splitlines()}


@pytest.mark.parametrize("name", [name for commands in COMMANDS.values() for name in commands])
def test_every_command_has_help(jobs: Run, name: str) -> None:
    help_ = jobs(name, "--help").out
    assert help_.startswith("Usage: joblane ")
    assert re.search(r"^  [A-Z]\S.*", help_, re.M)


def test_the_short_help_of_a_command_is_not_cut(jobs: Run) -> None:
    assert "..." not in jobs("--help", columns=80).out.partition("Inspect:")[2]


def test_every_bulk_action_is_a_command() -> None:
    assert list(actions.HELP) == list(BulkAction)


def test_the_shell_completes_existing_values() -> None:
    assert options.states() == list(State)
    assert options.queues() == list(Queue)
    assert options.scopes() == list(PauseScope)
    assert options.task_types() == [type_ for type_ in discover() if not type_.startswith("jobs:")]


def test_the_shell_completes_types_after_an_option(tmp_path: Path) -> None:
    shell = {"_JOBLANE_COMPLETE": "complete_bash", "COMP_WORDS": "joblane ls --type data:", "COMP_CWORD": "3"}
    command = [sys.executable, "-c", "from joblane.cli.main import main; main()"]
    ran = subprocess.run(command, env=shell, cwd=ROOT, capture_output=True, text=True, check=False)
    assert "data:export" in ran.stdout


def test_the_help_and_completion_import_neither_the_library_nor_rich() -> None:
    code = (
        "import sys; from joblane.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "assert not {'joblane.client.client', 'joblane.record.driver.database', 'rich.table', 'pydantic', "
        "'sqlalchemy', 'boto3'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(("arguments", "status"), [("--help", 0), ("types", 0), ("why x", 2), ("init /no/such", 2)])
def test_an_output_that_its_reader_has_closed_changes_no_status(arguments: str, status: int) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "joblane.cli", *arguments.split()]
    try:
        ran = subprocess.run(command, cwd=ROOT, check=False, stdout=writing, stderr=subprocess.PIPE)
        both = subprocess.run(command, cwd=ROOT, check=False, stdout=writing, stderr=writing)
    finally:
        os.close(writing)
    assert (ran.returncode, both.returncode) == (status, status)
    assert b"roken" not in ran.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_an_output_that_is_closed_from_the_start_changes_no_status(closed: str) -> None:
    command = f"{shlex.quote(sys.executable)} -m joblane.cli costs --help {closed}"
    ran = subprocess.run(["/bin/sh", "-c", command], cwd=ROOT, check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ("Usage" in ran.stdout) is (closed == "2>&-")


def test_an_argument_that_is_not_text_is_a_usage_error(jobs: Run, stub: FakeInspector) -> None:
    ran = jobs("audit", "--who", "\udcff")
    assert (ran.code, stub.calls) == (2, [])
    assert ran.err == "joblane: '\\udcff' is not text in UTF-8\n"
    # in a shell without a locale, Python reads UTF-8 as bytes
    jobs("audit", "--who", "Ren\udcc3\udca9")
    assert "René" in repr(stub.calls)


# --- Times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("10m", 600), ("1h30m", 5400), ("15min", 900), ("3d", 259200), ("1w", 604800), ("1.5h", 5400)],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "10", "m", "-5m", "10 m", "1y", "99999999999w"])
def test_an_invalid_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|longer"):
        duration(text)


def test_a_time_without_an_offset_is_utc() -> None:
    assert moment("2026-11-25 14:30") == datetime(2026, 11, 25, 14, 30, tzinfo=UTC)
    with pytest.raises(ValueError, match="is not a time"):
        moment("half past two")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.2, "0s"),
        (59.4, "59s"),
        (61, "1m"),
        (3540, "59m"),
        (12000, "3h20m"),
        (86400 * 1.5, "1d12h"),
        (86400 * 30, "30d"),
    ],
)
def test_durations_are_written_short(seconds: float, text: str) -> None:
    assert short(seconds) == text


@pytest.mark.parametrize("text", ["0001-01-01T00:00+10:00", "9999-12-31T23:00-10:00"])
def test_a_time_outside_the_calendar_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is outside the calendar"):
        moment(text)


# --- The name of the program -----------------------------------------------------------------------------------------


def test_a_suggested_command_names_a_program_that_the_shell_finds(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bin_ = Path(sys.executable).parent
    # given the environment is on the path
    monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
    assert target.program() == "joblane"
    # and given it is not
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    monkeypatch.chdir(bin_.parent)
    assert target.program() == "bin/joblane"
    monkeypatch.chdir(tmp_path)
    assert target.program() == str(bin_ / "joblane")
    # and given another program of this name is
    (tmp_path / "joblane").touch(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert target.program() == str(bin_ / "joblane")


@pytest.mark.parametrize("goal", ["up", "dev", "down", "status"])
def test_make_prints_commands_that_the_callers_shell_finds(goal: str) -> None:
    # given a shell whose path lacks the environment
    env = {**os.environ, "PATH": "/usr/bin:/bin"}
    planned = subprocess.run(
        ["make", "--dry-run", goal], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    # when make runs the command line
    line = next(line for line in reversed(planned) if f"joblane.cli.main {goal}" in line)
    settings = line.partition(".venv/bin/python")[0]
    asked = "from joblane.cli.target import program; print(program())"
    ran = ["sh", "-c", f"{settings} {shlex.quote(sys.executable)} -c {shlex.quote(asked)}"]
    printed = subprocess.run(ran, cwd=ROOT, env=env, capture_output=True, text=True, check=True).stdout.strip()
    # then
    assert printed.endswith("/joblane")


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_jobs_alone_is_a_builtin_of_the_shell(shell: str) -> None:
    ran = subprocess.run([shell, "-c", "jobs --help-me"], capture_output=True, text=True, check=False)
    assert "Background jobs on AWS" not in ran.stdout


def test_a_migration_of_an_unavailable_database_names_the_source_of_its_address(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # given a port without a server
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        monkeypatch.setenv("DATABASE_URL", f"postgresql://me:word@127.0.0.1:{port}/jobs")
        # when
        with pytest.raises(SystemExit) as ended:
            main(["migrate"])
    # then
    assert ended.value.code == Exit.UNAVAILABLE
    error = capsys.readouterr().err
    assert f"Cannot migrate the database at 127.0.0.1:{port} (from DATABASE_URL of the environment): " in error
    assert "word" not in error


def test_an_unbuffered_output_stays_unbuffered() -> None:
    reader, writer = os.pipe()
    with TextIOWrapper(FileIO(writer, "w"), "utf-8", write_through=True) as stream:  # as Python makes it with `-u`
        output = Output.of(stream)  # its end would write what it has kept
        output.write("at once")
        os.set_blocking(reader, False)
        assert os.read(reader, 100) == b"at once"
    os.close(reader)
