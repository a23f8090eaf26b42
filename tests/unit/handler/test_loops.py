"""Sources of the loops of long tasks, as far as they need no database. The integration tests cover the rest."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane import Payload, TaskContext, task
from joblane.errors import CursorError, DeclarationError, ItemKeyError
from joblane.handler.loops import Pages, key_of

NO_SESSION: Any = None


def all_of(pages: Pages[Any], after: Any = None) -> Iterator[tuple[list[Any], Any]]:
    while True:
        page, after = pages.after(after)
        if not page:
            return
        yield page, after


# --- Pages ---------------------------------------------------------------------------------------------------------


@given(st.integers(0, 60), st.integers(1, 20), st.data())
def test_pages_of_a_sequence_hold_each_item_once_wherever_a_run_continues(
    number: int, size: int, data: st.DataObject
) -> None:
    pages = list(all_of(Pages(range(number), None, NO_SESSION, size, 0)))
    assert [item for page, _ in pages for item in page] == list(range(number))
    assert all(len(page) == size for page, _ in pages[:-1])
    if pages:
        _, done = data.draw(st.sampled_from(pages))
        rest = list(all_of(Pages(range(number), None, NO_SESSION, size, done), done))
        assert [item for page, _ in rest for item in page] == list(range(done, number))


@given(st.sets(st.integers()), st.integers(1, 10), st.data())
def test_pages_of_a_function_hold_each_item_once_wherever_a_run_continues(
    numbers: set[int], size: int, data: st.DataObject
) -> None:
    def source(after: int | None) -> Iterator[int]:
        return (number for number in sorted(numbers) if after is None or number > after)

    pages = list(all_of(Pages(source, int, NO_SESSION, size, 0)))
    assert [item for page, _ in pages for item in page] == sorted(numbers)
    if pages:
        page, after = data.draw(st.sampled_from(pages))
        assert after == page[-1]
        rest = [item for later, _ in all_of(Pages(source, int, NO_SESSION, size, 0), after) for item in later]
        assert rest == [number for number in sorted(numbers) if number > after]


def test_no_more_than_a_page_is_read_from_a_function() -> None:
    taken: list[int] = []

    def source(after: int | None) -> Iterator[int]:
        for number in range(after or 0, 100):
            taken.append(number)
            yield number

    Pages(source, lambda item: item + 1, NO_SESSION, 3, 0).after(None)
    assert taken == [0, 1, 2]


@pytest.mark.parametrize(
    ("cursor", "plain"),
    [
        (7, 7),
        ("text", "text"),
        ((1, "a"), [1, "a"]),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC), "2026-01-02T03:04:05.000006Z"),
        (Decimal("1.10"), "1.10"),
        (0, 0),
        ("", ""),
    ],
)
def test_a_function_gets_the_json_form_of_its_cursor_in_every_run(cursor: Any, plain: Any) -> None:
    cursors: list[Any] = []

    def source(after: Any) -> list[str]:
        cursors.append(after)
        return ["item"] if after is None else []

    pages = list(all_of(Pages(source, lambda item: cursor, NO_SESSION, 1, 0)))
    assert pages == [(["item"], plain)]
    assert cursors == [None, plain]
    assert json.loads(json.dumps(plain)) == plain


@pytest.mark.parametrize("size", [0, -1, 1.0, "1", None, True])
def test_an_invalid_chunk_is_refused(size: Any) -> None:
    with pytest.raises(CursorError, match="chunk: a whole number of 1 or more is required, not"):
        Pages([1], None, NO_SESSION, size, 0)


# --- Keys ----------------------------------------------------------------------------------------------------------


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=500))
def test_any_text_that_postgresql_can_store_is_a_key(text: str) -> None:
    assert key_of(text, str) == text


def test_the_text_of_a_value_is_its_key() -> None:
    assert key_of(7, str) == "7"
    assert key_of(uuid.UUID(int=7), str) == "00000000-0000-0000-0000-000000000007"


def test_a_memory_address_is_not_a_key() -> None:
    with pytest.raises(ItemKeyError, match=r"key: object does not define str\(\); give a function"):
        key_of(object(), str)
    assert key_of(object(), lambda _: "one") == "one"


# --- Declarations --------------------------------------------------------------------------------------------------


class Empty(Payload):
    pass


def data_import(payload: Empty, ctx: TaskContext) -> None:
    pass


def test_a_resumable_task_may_have_a_timeout_of_half_an_hour() -> None:
    declared = task("data:import", timeout=timedelta(minutes=30), resumable=True)(data_import)
    assert (declared.timeout, declared.resumable) == (timedelta(minutes=30), True)
    assert declared.numbers.function_timeout == timedelta(minutes=5)


def test_without_resumable_a_long_timeout_is_refused_with_advice() -> None:
    with pytest.raises(DeclarationError, match=r"'data:import': timeout 0:30:00 .* declare resumable=True"):
        task("data:import", timeout=timedelta(minutes=30))(data_import)


def test_a_timeout_of_ten_hours_limits_the_retries() -> None:
    with pytest.raises(DeclarationError, match=r"with 150 continuations per attempt.* lower max_retry to 4,"):
        task("data:import", timeout=timedelta(hours=10), resumable=True)(data_import)
    task("data:import", timeout=timedelta(hours=10), resumable=True, max_retry=4)(data_import)


def test_a_resumable_task_has_a_batch_size_of_one() -> None:
    with pytest.raises(DeclarationError, match="batch_size: a resumable task takes an invocation for itself"):
        task("data:import", resumable=True, batch_size=2)(data_import)
