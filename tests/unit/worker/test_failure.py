"""The stored form of an error, and its fingerprint: errors that differ only in values have the same fingerprint."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace

import pytest

from joblane.record.causes import normalised
from joblane.worker.outcome import MAX_TRACEBACK, Failure
from tests.builders import views


@pytest.mark.parametrize(
    ("message", "kept"),
    [
        ("row 17 of 4200 is bad", "row # of # is bad"),
        ("'field-17'", "'…'"),
        ('no column "tenant 7" in “Acme” or ‘Globex’', "no column '…' in '…' or '…'"),
        ("it isn't there and can't be", "it isn't there and can't be"),
        ("tenant 01a2122b-e71b-777a-be32-cb399ec40ea8 is gone", "tenant # is gone"),
        ("object at 0x7f1cd580a3f0", "object at #"),
        ("no answer from 10.0.0.17:5432", "no answer from #"),
        ("no answer from https://example.com/a/17?b=c after 3 s", "no answer from @ after # s"),
        ("mail to ada.l+x@mail.example.org was refused", "mail to @ was refused"),
        ("seen at 2026-11-25T08:00:00.123Z", "seen at #"),
        ("the tenant does not exist", "the tenant does not exist"),
        ("utf8 and sha256 of the decade", "utf# and sha# of the decade"),
        ("", ""),
    ],
)
def test_values_are_removed_from_the_message_of_an_error(message: str, kept: str) -> None:
    assert normalised(message) == kept


def failure(message: str, type_: str = "data:export", kind: type[Exception] = ValueError) -> str:
    return Failure.of(type_, kind(message), str).fingerprint


def test_errors_that_differ_only_in_values_have_the_same_fingerprint() -> None:
    assert failure("order 17: 'a' is no 'colour'") == failure("order 4: 'b' is no 'size'")
    others = {
        failure("order 17 is paid"),
        failure("order 17 is shipped"),
        failure("order 17 is paid", type_="order:ship"),
        failure("order 17 is paid", kind=KeyError),
    }
    assert len(others) == 4


# --- Unusual errors -------------------------------------------------------------------------------------------------


def kept(error: BaseException) -> Failure:
    return Failure.of("data:export", error, str)


def test_an_error_with_thousands_of_contexts_is_kept_with_the_last_of_them() -> None:
    error = ValueError("number 0")
    for number in range(1, 5_000):
        following = ValueError(f"number {number}")
        following.__context__ = error
        error = following
    found = kept(error)
    assert found.error_message == "number 4999"
    assert len(found.traceback) <= MAX_TRACEBACK
    assert found.traceback.rstrip().endswith("ValueError: number 4999")
    assert "number 4990\n\nDuring handling" in found.traceback


def test_errors_that_cause_each_other_are_kept_once_each() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    assert kept(one).traceback.count("ValueError: one") == 1


def test_a_group_of_thousands_of_errors_is_shortened() -> None:
    group = ExceptionGroup("many", [ExceptionGroup("some", [ValueError(f"item {n}") for n in range(1_000)])])
    assert "1 of the group" in kept(group).traceback
    assert "item 999" not in kept(group).traceback


# --- The place ------------------------------------------------------------------------------------------------------


def raised(function: Callable[[], object]) -> Exception:
    try:
        function()
    except ValueError as error:
        return error
    raise AssertionError


def fails_in_a_library() -> None:
    json.loads("{")


def test_the_innermost_frame_of_the_projects_own_code_is_found() -> None:
    error = raised(fails_in_a_library)
    attempt = replace(views.attempt(1), traceback=kept(error).traceback)
    # then its path is relative, unlike the paths of a library
    own = "tests/unit/worker/test_failure.py"
    assert f'File "{own}", line ' in kept(error).traceback
    assert re.search(r'File "/.*/json/decoder.py"', kept(error).traceback)
    line = fails_in_a_library.__code__.co_firstlineno + 1
    assert attempt.raised_at == f'{own}, line {line}, in fails_in_a_library: json.loads("{{")'


@pytest.mark.parametrize(
    ("traceback", "place"),
    [
        (None, None),
        ("", None),
        ('  File "/opt/python/x.py", line 3, in run\n    go()\n', None),
        ('  File "<string>", line 3, in run\n', None),
        ('  File "a/b.py", line 3, in run\n  File "/opt/python/x.py", line 1, in go\n', "a/b.py, line 3, in run"),
        ('  File "a.py", line 3, in <lambda>\n    go()\n    ^^^^\nValueError: x', "a.py, line 3, in <lambda>: go()"),
        ('  | File "a.py", line 9, in each\n  |   go()\n', "a.py, line 9, in each: go()"),
    ],
)
def test_a_traceback_without_own_code_has_no_place(traceback: str | None, place: str | None) -> None:
    assert replace(views.attempt(1), traceback=traceback).raised_at == place
