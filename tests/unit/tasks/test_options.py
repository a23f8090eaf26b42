"""Options of a single task: written to a message, read back, and limited to what the declaration allows."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane import ArchivedTask, Payload, TaskContext, task
from joblane.errors import MessageError
from joblane.record.row.new import declared
from joblane.record.row.options import TaskOptions
from joblane.sqs.message import Message, decode
from joblane.tasks.options import NONE, Options


class Empty(Payload):
    pass


@task("system:alert", max_retry=2, retention=timedelta(hours=1))
def system_alert(payload: ArchivedTask, ctx: TaskContext) -> None:
    pass


@task("data:export", max_retry=3, timeout=timedelta(seconds=20), on_archived=system_alert)
def data_export(payload: Empty, ctx: TaskContext) -> None:
    pass


@task("data:load", max_retry=3)
def data_load(payload: Empty, ctx: TaskContext) -> None:
    pass


SECONDS = st.none() | st.floats(1, 86400)
OPTIONS = st.builds(
    Options,
    max_retry=st.none() | st.integers(0, 1000),
    timeout=SECONDS,
    retention=SECONDS | st.just(0.0),
    retry_delay=st.none() | st.lists(st.floats(0, 86400), min_size=1, max_size=5),
    deadline=st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    tags=st.lists(st.text("abc", min_size=1), unique=True, max_size=5),
)


def decoded(fields: Any) -> Options | None:
    return decode(json.dumps({"type": "data:export", "options": fields})).options


@given(OPTIONS)
def test_options_are_read_from_a_message_as_they_were_written(options: Options) -> None:
    found = decode(Message("data:export", options=options).encode()).options or NONE
    assert replace(found, tags=list(found.tags)) == replace(options, tags=list(options.tags))


def test_unset_options_are_not_in_the_message() -> None:
    for options, fields in ((NONE, {}), (Options(max_retry=0, retention=0), {"max_retry": 0, "retention": 0})):
        assert json.loads(Message("data:export", options=options).encode())["options"] == fields


@given(OPTIONS)
def test_options_of_an_external_producer_never_exceed_the_declaration(options: Options) -> None:
    cut = options.within(data_export)
    assert 1 <= cut.max_attempts(data_export) <= 4
    assert cut.timeout is None or cut.timeout == min(options.timeout or 0, 20)
    assert cut.retention_seconds(data_export) <= 86400
    assert (cut.retry_delay, cut.deadline, cut.tags) == (options.retry_delay, options.deadline, options.tags)


def test_unset_options_are_those_of_the_declaration() -> None:
    assert (NONE.max_attempts(data_export), NONE.retention_seconds(data_export)) == (4, 86400)
    assert (TaskOptions.of(NONE).row(), declared(data_load)) == ({}, {})
    assert Options(max_retry=0).max_attempts(data_export) == 1
    assert Options(retention=0).retention_seconds(data_export) == 0


def test_a_row_holds_the_successor_for_the_case_that_its_task_is_archived() -> None:
    successor = {"type": "system:alert", "queue": "default", "max_attempts": 3, "retention_seconds": 3600}
    assert declared(data_export) == {"on_archived": successor}
    stored = TaskOptions.of(Options(timeout=5, retry_delay=[1.0]))
    assert stored.row() == {"timeout": 5, "retry_delay": [1.0]}
    assert TaskOptions.read(stored.row()) == stored


@pytest.mark.parametrize("row", [{"timeout": True}, {"retry_delay": [True]}, {"timeout": 0.5}, {"retry_delay": 5}, []])
def test_options_that_the_table_refuses_are_refused_when_a_row_is_read(row: Any) -> None:
    with pytest.raises(ValueError, match="options: "):
        TaskOptions.read(row)


@given(
    st.dictionaries(
        st.sampled_from(["max_retry", "timeout", "retention", "retry_delay", "deadline", "tags", "other"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
            lambda inside: st.lists(inside) | st.dictionaries(st.text(), inside),
        ),
    )
)
def test_any_options_of_an_external_producer_are_read_or_refused_with_the_field(fields: dict[str, Any]) -> None:
    try:
        options = decoded(fields)
    except MessageError as error:
        assert str(error).startswith("options")  # noqa: PT017 - both outcomes are right
    else:
        assert options is not None
        assert options.within(data_export).max_attempts(data_export) >= 1
