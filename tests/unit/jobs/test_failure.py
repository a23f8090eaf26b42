"""What groups errors: alike are those that differ in values alone."""

from __future__ import annotations

import pytest

from shared.jobs.failure import Failure, normalised


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
def test_what_is_one_errors_alone_is_taken_out_of_its_message(message: str, kept: str) -> None:
    assert normalised(message) == kept


def failure(message: str, type_: str = "data:export", kind: type[Exception] = ValueError) -> str:
    return Failure.of(type_, kind(message)).fingerprint


def test_errors_that_differ_in_values_alone_have_one_fingerprint() -> None:
    assert failure("order 17: 'a' is no 'colour'") == failure("order 4: 'b' is no 'size'")
    others = {
        failure("order 17 is paid"),
        failure("order 17 is shipped"),
        failure("order 17 is paid", type_="order:ship"),
        failure("order 17 is paid", kind=KeyError),
    }
    assert len(others) == 4
