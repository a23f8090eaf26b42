"""Lambda's rule for chains of messages: how invocations are counted, and when one is refused."""

from __future__ import annotations

import pytest

from joblane.local.chains import invocation_header


def test_the_seventeenth_invocation_of_a_chain_is_refused() -> None:
    header = None
    for _ in range(16):
        header = invocation_header("sync", [header])
        assert header is not None
    assert invocation_header("sync", [header]) is None
    assert invocation_header("mail", [header]) is not None
    assert invocation_header("sync", [None]) is not None


def test_a_function_that_allows_loops_is_counted_and_not_refused() -> None:
    header = None
    for _ in range(40):
        header = invocation_header("sync", [header], allows_loops=True)
    assert invocation_header("sync", [header]) is None


def test_each_function_of_a_chain_has_a_count_of_its_own() -> None:
    header = None
    for _ in range(16):
        header = invocation_header("mail", [invocation_header("sync", [header])])
    assert invocation_header("sync", [header]) is None
    assert invocation_header("mail", [header]) is None
    assert invocation_header("other", [header]) is not None


def test_the_longest_chain_of_a_batch_counts() -> None:
    long = None
    for _ in range(15):
        long = invocation_header("sync", [long])
    last = invocation_header("sync", [None, long, invocation_header("sync", [None])])
    assert last is not None
    assert invocation_header("sync", [last]) is None


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Root=",
        "Lineage=",
        "Lineage=nonsense",
        "Lineage=1:0a1b2c3d:",
        "Lineage=1:0a1b2c3d:" + "9" * 5000,
        "é\0;=;",
        "=" * 9000,
    ],
)
def test_a_header_that_cannot_be_read_begins_a_chain(header: str) -> None:
    assert invocation_header("sync", [header] * 20) is not None


def test_a_header_of_aws_is_read() -> None:
    """Its form is that of public examples of Lambda events."""
    found = invocation_header(
        "sync", ["Root=1-670651f9-1de5c67d67d46ca431286874;Parent=4d055eebb5faad7c;Sampled=0;Lineage=1:bd4cecd5:7"]
    )
    assert found is not None
    assert "1:bd4cecd5:7" in found
