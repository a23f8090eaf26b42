"""Ids of ticks: every delivery of a tick has the same id, with or without a time in the message."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from joblane import Payload, TaskContext, cron, task
from joblane.sqs.message import ID_PATTERN, TICK_ID_PATTERN, decode
from joblane.sqs.tick import tick_id


class Empty(Payload):
    pass


@task("data:clean", schedule=[cron("0 2 * * *", name="nightly"), cron("*/5 * * * *", name="often")])
def data_clean(payload: Empty, ctx: TaskContext) -> None:
    pass


NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC).timestamp()
UNWRITTEN = "<aws.scheduler.scheduled-time>"


@pytest.mark.parametrize(
    "at", ["2026-03-01T02:00:00Z", "2026-03-01T02:00Z", "2026-03-01T02:00:00.000Z", "2026-03-01T02:00"]
)
def test_the_time_written_by_the_scheduler_is_read_to_the_minute(at: str) -> None:
    assert (
        tick_id(data_clean, data_clean.type, {"schedule": "nightly", "at": at}, NOON)
        == "data:clean:nightly:2026-03-01T02:00Z"
    )


@pytest.mark.parametrize("at", [UNWRITTEN, "", "soon", "2026-03-01", "2026-03-01T02:00+01:00", "٢٠٢٦-٠٣-٠١T٠٢:٠٠"])
def test_without_a_written_time_the_tick_is_the_last_before_the_send(at: str) -> None:
    assert (
        tick_id(data_clean, data_clean.type, {"schedule": "nightly", "at": at}, NOON)
        == "data:clean:nightly:2026-03-01T02:00Z"
    )


def test_a_tick_sent_a_few_seconds_early_keeps_its_time() -> None:
    for seconds in (-5, -1, 0, 30, 299 - 5):
        id_ = tick_id(data_clean, data_clean.type, {"schedule": "often", "at": UNWRITTEN}, NOON + seconds)
        assert id_ == "data:clean:often:2026-03-01T12:00Z"
    assert (
        tick_id(data_clean, data_clean.type, {"schedule": "often", "at": UNWRITTEN}, NOON - 6)
        == "data:clean:often:2026-03-01T11:55Z"
    )


def test_a_tick_of_a_removed_schedule_still_has_an_id() -> None:
    assert (
        tick_id(data_clean, data_clean.type, {"schedule": "gone", "at": UNWRITTEN}, NOON)
        == "data:clean:gone:2026-03-01T12:00Z"
    )


@given(st.text(max_size=80), st.sampled_from(["nightly", "often", "gone"]), st.floats(0, 4e9))
def test_every_id_of_a_tick_is_valid(at: str, schedule: str, sent_at: float) -> None:
    id_ = tick_id(data_clean, data_clean.type, {"schedule": schedule, "at": at}, sent_at)
    assert ID_PATTERN.fullmatch(id_)
    assert TICK_ID_PATTERN.fullmatch(id_)


@given(st.datetimes(datetime(2024, 1, 1), datetime(2034, 1, 1)), st.floats(0, 290))  # noqa: DTZ001 - made aware below
def test_a_tick_has_the_same_id_with_and_without_a_written_time(moment: datetime, late: float) -> None:
    fire = data_clean.schedules[1].previous(moment.replace(tzinfo=UTC))
    sent_at = (fire + timedelta(seconds=late)).timestamp()
    written = tick_id(data_clean, data_clean.type, {"schedule": "often", "at": f"{fire:%Y-%m-%dT%H:%M:%SZ}"}, sent_at)
    assert tick_id(data_clean, data_clean.type, {"schedule": "often", "at": UNWRITTEN}, sent_at) == written


def test_a_message_of_the_scheduler_is_read_as_a_tick() -> None:
    message = decode('{"v":1,"type":"data:clean","tick":{"schedule":"nightly","at":"2026-03-01T02:00:00Z"}}')
    assert message.tick == {"schedule": "nightly", "at": "2026-03-01T02:00:00Z"}
    assert message.payload == {}
