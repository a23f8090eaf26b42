"""What is kept of an error, whatever it is like."""

from __future__ import annotations

from shared.jobs.failure import MAX_TRACEBACK, Failure


def kept(error: BaseException) -> Failure:
    return Failure.of("data:export", error, str)


def test_an_error_that_thousands_led_to_is_kept_with_the_last_of_them() -> None:
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


def test_errors_that_cause_one_another_are_kept_once_each() -> None:
    one, other = ValueError("one"), KeyError("other")
    one.__cause__, other.__cause__ = other, one
    assert kept(one).traceback.count("ValueError: one") == 1


def test_a_group_of_thousands_is_kept_in_part() -> None:
    group = ExceptionGroup("many", [ExceptionGroup("some", [ValueError(f"item {n}") for n in range(1_000)])])
    assert "1 of the group" in kept(group).traceback
    assert "item 999" not in kept(group).traceback


def test_errors_of_a_kind_have_one_fingerprint_and_others_another() -> None:
    alike = {kept(ValueError(f"user {n} of 'tenant-{n}' not found at a{n}@example.com")).fingerprint for n in range(9)}
    assert len(alike) == 1
    assert kept(ValueError("no user was found")).fingerprint not in alike
