"""The errors: a single root, data as fields, and interrupts that ``except Exception`` in a handler does not catch."""

from __future__ import annotations

import inspect
from datetime import timedelta
from typing import Any

import pytest

from joblane import errors
from joblane.errors import (
    Continued,
    EnqueueError,
    Interrupt,
    JobError,
    LaneError,
    RetryAfter,
    Snooze,
    Stopped,
    TaskCancelled,
    TaskIdConflictError,
    TaskTimeout,
)
from joblane.record.causes import normalised


def test_all_errors_except_the_interrupts_have_one_root() -> None:
    classes = [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and issubclass(value, BaseException) and value.__module__.startswith(errors.__name__)
    ]
    assert {cls for cls in classes if not issubclass(cls, JobError)} == {
        Interrupt,
        TaskTimeout,
        TaskCancelled,
        Continued,
        Stopped,
    }
    assert not issubclass(Interrupt, Exception)
    assert all(cls.__doc__ for cls in classes)


def test_errors_carry_their_data_as_fields() -> None:
    assert EnqueueError("tenant", "no").field == "tenant"
    assert str(EnqueueError("tenant", "no")) == "tenant: no"
    conflict = TaskIdConflictError("mine")
    assert (conflict.field, conflict.task_id) == ("task_id", "mine")
    assert "it has one in: default, low" in str(LaneError("a:b", "critical", ["default", "low"]))


def test_the_text_of_a_missing_package_says_what_to_do_and_no_other_import_does() -> None:
    missing = ModuleNotFoundError("No module named 'no_such.part'", name="no_such.part")
    assert errors.text_of(missing) == f"No module named 'no_such.part'; {errors.MISSING_MODULE}"
    assert normalised(errors.MISSING_MODULE) == errors.MISSING_MODULE  # as groups of errors show it
    for name in ("json.no_such", "joblane.no_such", None):  # a part of what is there, and an error of the handler's own
        assert errors.text_of(ModuleNotFoundError("not there", name=name)) == "not there"
    assert errors.text_of(ImportError("cannot import name", name="no_such")) == "cannot import name"


def test_the_text_of_another_drivers_error_has_its_code_and_no_value_of_a_row() -> None:
    class UniqueViolationError(Exception):  # as asyncpg's and psycopg's
        sqlstate = "23505"

    error = UniqueViolationError('duplicate key value violates "members_email"\nDETAIL:  Key (email)=(ann@example.org)')
    around = JobError("around")
    around.__dict__["orig"] = error
    for each in (error, around):
        assert errors.sqlstate(each) == "23505"
        assert errors.text_of(each) == 'duplicate key value violates "members_email" (23505)'
    djangos = JobError(*error.args)  # Django raises its own class, with the same arguments, from the driver's
    djangos.__cause__ = error
    assert errors.text_of(djangos) == 'duplicate key value violates "members_email" (23505)'
    error.args = ('duplicate key value violates "members_email" (23505)',)  # as joblane.django writes it
    assert errors.text_of(error) == 'duplicate key value violates "members_email" (23505)'


@pytest.mark.parametrize("kind", [RetryAfter, Snooze])
def test_an_outcome_with_a_delay_needs_a_timedelta_of_zero_or_more(kind: Any) -> None:
    assert kind(timedelta(0)).delay == timedelta(0)
    assert str(kind(timedelta(minutes=1))) == "again in 0:01:00"
    assert str(kind(timedelta(minutes=1), "rate limit")) == "rate limit"
    for wrong in (timedelta(seconds=-1), 5, 1.5, None, "5"):
        with pytest.raises(TypeError, match="delay: a timedelta of zero or more"):
            kind(wrong)
