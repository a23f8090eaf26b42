"""The check of the tests by faults finds a weak test."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests import mutants

LIBRARY = """
def positive(number):
    if number > 0:
        return True
    return False


def unused(number):
    return number == 3
"""
SQL = """
select case when t.state = 'active' then 1 end -- when nothing then
  from tasks t where t.due_at > now()
"""
WEAK = "import lib\n\ndef test_weak():\n    lib.positive(1)\n"
STRONG = """import lib

def test_strong():
    assert [lib.positive(number) for number in (-1, 0, 1, 2)] == [False, False, True, True]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with a library of one file and an empty folder of tests, which run without other plugins."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    root = tmp_path / "project"
    (root / "shared").mkdir(parents=True)
    (root / "checks").mkdir()
    (root / "shared" / "lib.py").write_text(LIBRARY)
    subprocess.run(["git", "init", "-q", root], check=True)
    return root


def test_a_weak_test_is_found(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    test, kept = project / "checks" / "test_lib.py", tmp_path / "faults.json"
    options = ["--of", "shared", "--", "checks"]

    test.write_text(STRONG)
    strong = mutants.main(["--number", "3", "--json", str(kept), *options], project)
    faults = json.loads(kept.read_text())
    test.write_text(WEAK)
    weak = mutants.main(["--again", str(kept), *options], project)

    assert (strong, weak) == (0, 1)
    assert {fault["found"] for fault in faults} == {"checks/test_lib.py::test_strong"}
    assert not any("== 3" in fault["before"] for fault in faults), "no test runs this line"
    printed = capsys.readouterr().out
    assert "3 of 3 faults were found" in printed
    assert "0 of 3 faults were found" in printed
    assert printed.count("Found no more, before by checks/test_lib.py::test_strong: shared/lib.py:") == 3
    assert (project / "shared" / "lib.py").read_text() == LIBRARY


def test_a_test_that_fails_without_a_fault_is_an_error(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "checks" / "test_lib.py").write_text("def test_wrong():\n    assert False\n")

    with pytest.raises(SystemExit) as caught:
        mutants.main(["--of", "shared", "--", "checks"], project)

    assert caught.value.code == 2
    assert capsys.readouterr().err == "This fails without a fault: checks/test_lib.py::test_wrong\n"


def test_faults_of_python_are_conditions_comparisons_constants_and_statements() -> None:
    text = """
def f(a, b):
    if a and b:
        a.c = 3
    a.d(True)
    return a.é < b
"""
    faults = mutants.python_faults("f.py", text, {3, 4, 5, 6})

    assert {(fault.line, fault.after.strip()) for fault in faults} == {
        (3, "if (not (a and b)):"), (3, "if a or b:"), (4, "pass"), (4, "a.c = 4"), (5, "pass"), (5, "a.d(False)"),
        (6, "return None"), (6, "return a.é <= b"),
    }  # fmt: skip


def test_faults_of_sql_are_conditions_states_and_columns() -> None:
    assert [(fault.line, fault.after.strip()) for fault in mutants.sql_faults("f.sql", SQL)] == [
        (2, "select case when not (t.state = 'active') then 1 end -- when nothing then"),
        (2, "select case when t.state = 'retry' then 1 end -- when nothing then"),
        (3, "from tasks t where not t.due_at > now()"),
        (3, "from tasks t where t.deadline > now()"),
    ]
