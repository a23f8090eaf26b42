"""Refusals of an enqueue, by name, before anything is written or sent, and without a value of the payload."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from unittest.mock import Mock

import pytest
from pg8000.exceptions import DatabaseError

from joblane import JobClient, MessageClient, Payload, Queue
from joblane.errors import DatabaseUnavailableError, EnqueueError, LaneError, PayloadError
from joblane.quotas import MAX_MESSAGE_BYTES
from joblane.settings import MissingSettingError
from joblane.tasks.job import Job
from joblane.tasks.task import Task
from tests.integration.enqueue.conftest import Loose, sample_loose
from tests.samples import Sample, sample_batch, sample_one, sample_only
from tests.sends import Sends
from tests.world import World

SECRET = "hunter2"
SECOND, HOUR, DAY = timedelta(seconds=1), timedelta(hours=1), timedelta(days=1)
NOW = datetime.now(UTC)


@contextmanager
def nothing_happens(world: World, sends: Sends) -> Iterator[None]:
    """Assert that nothing is written or sent inside the block."""
    yield
    assert world.run("select id from joblane.tasks") == []
    assert sends.messages == []


# --- Options -------------------------------------------------------------------------------------------------------

TASK_ID = "1 to 200 printable ASCII characters"
TENANT = "1 to 128 ASCII letters, digits and punctuation"
HEADERS = "strings of at most 1,000 characters are required, under names of at most 100"
BAD_OPTIONS: list[tuple[dict[str, Any], str, str]] = [
    ({"queue": "fast"}, "queue", "'fast' is not one of critical, default, low"),
    ({"queue": 3}, "queue", "3 is not one of critical, default, low"),
    ({"queue": Queue.LOW}, "queue", "'sample:one' has no lane in 'low'; it has one in: default. Add it by also="),
    ({"queue": Sample(do=SECRET)}, "queue", "Sample is not one of critical, default, low"),
    ({"process_in": 60}, "process_in", "a timedelta from 0 seconds to 3650 days is required, not 60"),
    ({"process_in": "soon"}, "process_in", "a timedelta from 0 seconds to 3650 days is required, not 'soon'"),
    ({"process_in": timedelta(seconds=-1)}, "process_in", "0 seconds to 3650 days is required"),
    ({"process_in": timedelta(days=3651)}, "process_in", "0 seconds to 3650 days is required, not 3651 days"),
    ({"process_in": True}, "process_in", "from 0 seconds to 3650 days is required, not True"),
    ({"process_in": float("nan")}, "process_in", "from 0 seconds to 3650 days is required, not nan"),
    ({"process_in": 10**5000}, "process_in", "from 0 seconds to 3650 days is required, not int"),
    ({"process_in": Sample(do=SECRET)}, "process_in", "from 0 seconds to 3650 days is required, not Sample"),
    ({"process_in": timedelta.max}, "process_in", "0 seconds to 3650 days is required"),
    ({"process_at": datetime(2030, 1, 1)}, "process_at", "an aware datetime is required"),  # noqa: DTZ001
    ({"process_at": 1893456000}, "process_at", "an aware datetime is required, not int"),
    ({"process_at": "2030-01-01T00:00:00Z"}, "process_at", "an aware datetime is required, not str"),
    ({"process_at": datetime(2099, 1, 1, tzinfo=UTC)}, "process_at", "at most 3650 days ahead"),
    ({"process_at": datetime.max.replace(tzinfo=UTC)}, "process_at", "at most 3650 days ahead"),
    ({"process_at": datetime.min.replace(tzinfo=timezone(23 * HOUR))}, "process_at", "that the calendar has"),
    ({"process_in": DAY, "process_at": NOW}, "process_at", "not both"),
    ({"deadline": NOW.replace(tzinfo=None)}, "deadline", "an aware datetime is required"),
    ({"deadline": "tomorrow"}, "deadline", "an aware datetime is required"),
    ({"deadline": NOW - SECOND}, "deadline", "it has passed"),
    ({"deadline": NOW + 9 * DAY, "process_in": 10 * DAY}, "deadline", "it is before the task is due"),
    ({"deadline": NOW + 9 * DAY, "process_at": NOW + 10 * DAY}, "deadline", "it is before the task is due"),
    *(({"task_id": odd}, "task_id", TASK_ID) for odd in ("", 7, "x" * 201, "a b", "é", "a\n", "a\0")),
    ({"task_id": "sample:one:0:2026-01-31T02:00Z"}, "task_id", "has the form of a tick's id"),
    *(({"tenant": odd}, "tenant", TENANT) for odd in ("", "a b", "é", "x" * 129, 5)),
    *(({"owner": odd}, "owner", "printable ASCII characters without spaces") for odd in ("a b", "")),
    *(({"headers": odd}, "headers", HEADERS) for odd in ({"a": 1}, {"a": SECRET * 200}, {"a" * 101: ""}, {1: ""})),
    *(({"headers": odd}, "headers", "contains a NUL character") for odd in ({"a": SECRET + "\0"}, {"a\0": ""})),
    *(({"headers": odd}, "headers", "contains a lone surrogate") for odd in ({"a": "\ud800"}, {"\ud800": ""})),
    ({"headers": {str(number): "" for number in range(33)}}, "headers", "at most 32 are allowed, not 33"),
    ({"headers": [("a", "b")]}, "headers", "a mapping is required, not list"),
    *(({"tags": odd}, "tags", "a list of at most 20 strings") for odd in ("word", ["a"] * 21)),
    *(({"tags": odd}, "tags", "strings of 1 to 100 characters") for odd in ([""], ["x" * 101], [1])),
    ({"tags": ["a\0"]}, "tags", "contains a NUL character"),
    ({"max_retry": -1}, "max_retry", "0 to 3, which 'sample:one' declares, is required, not -1"),
    *(({"max_retry": odd}, "max_retry", "0 to 3, which 'sample:one' declares") for odd in (4, True, 1.0)),
    ({"timeout": 21 * SECOND}, "timeout", "20 seconds, which 'sample:one' declares, is required"),
    ({"timeout": timedelta(0)}, "timeout", "1 second to 20 seconds"),
    ({"timeout": 5}, "timeout", "a timedelta from"),
    ({"timeout": "x" * 100_000}, "timeout", f"declares, is required, not '{'x' * 90}…'"),
    *(({"retention": odd}, "retention", "0 seconds to 3650 days") for odd in (-SECOND, 3651 * DAY)),
    *(
        ({"retry_delay": odd}, "retry_delay", "a timedelta from 0 to 365 days, a list of them")
        for odd in ([], [366 * DAY], 5)
    ),
    ({"retry_delay": [SECOND] * 101}, "retry_delay", "at most 100 delays, of which the last repeats; not 101"),
    ({"retry_delay": lambda *_: SECOND}, "retry_delay", "a function cannot be stored in the row"),
    ({"retry_delay": Sample(do=SECRET)}, "retry_delay", "(attempt, error) -> timedelta, not Sample"),
    *(({"unique_for": odd}, "unique_for", "1 second to 3650 days") for odd in (timedelta(0), -SECOND, 3651 * DAY)),
    ({"unique_for": 60}, "unique_for", "a timedelta from 1 second"),
    ({"unique_key": "k"}, "unique_key", "give unique_for too"),
    ({"unique_until": "start"}, "unique_until", "give unique_for too"),
    ({"on_conflict": "replace"}, "on_conflict", "give unique_for too"),
]
BAD_OPTIONS_OF_A_UNIQUE_TASK: list[tuple[dict[str, Any], str, str]] = [
    ({"unique_for": timedelta(0)}, "unique_for", "1 second"),
    *(({"unique_key": odd}, "unique_key", "1 to 200 printable ASCII") for odd in ("", "é", "k\0", "k" * 201, 7)),
    ({"unique_until": "never"}, "unique_until", "'never' is not one of finish, start"),
    ({"on_conflict": "ignore"}, "on_conflict", "'ignore' is not one of raise, return, replace"),
]


@pytest.mark.parametrize(
    ("given", "bad"), [(sample_one, BAD_OPTIONS), (sample_only, BAD_OPTIONS_OF_A_UNIQUE_TASK)], ids=["any", "unique"]
)
def test_a_bad_option_is_refused_by_its_name_and_among_many_with_its_position(
    world: World, sends: Sends, given: Task[Any, Any], bad: list[tuple[dict[str, Any], str, str]]
) -> None:
    good = Job(sample_one, Sample())
    with nothing_happens(world, sends):
        for options, field, why in bad:
            with pytest.raises(EnqueueError) as caught:
                world.client.enqueue(given, Sample(), **options)
            refusal, wrong = str(caught.value), Job(given, Sample(), **options)
            assert (caught.value.field, options) == (field, options)
            assert refusal.startswith(f"{field}: ")
            assert why in refusal
            assert SECRET not in refusal
            assert ("timedelta(seconds=" in refusal) == (
                options in ({"process_in": 60}, {"timeout": 5}, {"unique_for": 60})
            )
            for jobs, position in (([wrong, good], 0), ([good, wrong], 1)):
                with pytest.raises(EnqueueError, match=f"^job {position}: {re.escape(refusal)}$"):
                    world.client.enqueue_many(jobs)


def test_a_missing_lane_is_refused_with_the_existing_lanes(world: World) -> None:
    with pytest.raises(LaneError, match="'sample:batch' has no lane in 'low'; it has one in: default, critical"):
        world.client.enqueue(sample_batch, Sample(), queue=Queue.LOW)


@pytest.mark.parametrize("odd", ["sample:one", print, None])
def test_what_is_no_task_is_refused(world: World, odd: Any) -> None:
    with pytest.raises(EnqueueError, match="task: a function declared by @task is required, not"):
        world.client.enqueue(odd, Sample())


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ("countdown", "did you mean process_in?"),
        ("eta", "did you mean process_at?"),
        ("max_retries", "did you mean max_retry?"),
        ("time_out", "did you mean timeout?"),
        ("colour", "there are queue, process_in, "),
    ],
)
def test_an_unknown_option_is_refused_with_the_similar_ones(world: World, sends: Sends, option: str, hint: str) -> None:
    odd: dict[str, Any] = {option: 5}
    with nothing_happens(world, sends), pytest.raises(EnqueueError) as caught:
        world.client.enqueue(sample_one, Sample(), **odd)
    assert caught.value.field == option
    assert str(caught.value).startswith(f"{option}: there is no such option; {hint}")


def test_two_jobs_of_one_call_with_the_same_id_are_refused(world: World, sends: Sends) -> None:
    jobs = [Job(sample_one, Sample(), task_id=id_) for id_ in ("a", "b", "a")]
    with nothing_happens(world, sends), pytest.raises(EnqueueError, match="task_id: 'a' is the id of two jobs"):
        world.client.enqueue_many(jobs)


def test_questions_of_a_wrong_kind_are_refused_by_name(world: World) -> None:
    for ask in (world.client.get, world.client.cancel):
        with pytest.raises(TypeError, match="task_id: a string is required, not int"):
            ask(5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="timeout: a timedelta is required, not int"):
        world.client.wait("x", 5)  # type: ignore[arg-type]


# --- Payloads ------------------------------------------------------------------------------------------------------


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


BAD_PAYLOADS: list[tuple[Task[Any, Any], Any, str]] = [
    *((sample_one, odd, "sample:one takes Sam") for odd in (None, {"do": SECRET}, SECRET, Loose(), 5)),
    (sample_one, Sample().model_copy(update={"number": SECRET}), "number: the value cannot be written as JSON"),
    (sample_loose, Loose(value=SECRET + "\0"), "contains a NUL character"),
    (sample_loose, Loose(value=[{"\0": 1}]), "contains a NUL character"),
    (sample_loose, Loose(value=SECRET + "\ud800"), "contains a lone surrogate"),
    (sample_loose, Loose(value=deep(70)), "nested deeper than 64 levels"),
    (sample_loose, Loose(value=deep(5000)), ""),
    *(
        (sample_loose, Loose(value=odd), "value: ")
        for odd in (float("nan"), [float("inf")], 10**5000, b"\xff\xfe", object())
    ),
    (sample_loose, Loose(number=float("-inf")), "number: "),
]


@pytest.mark.parametrize("record", [True, False])
def test_a_payload_that_no_message_or_row_can_hold_is_refused_and_not_shown(
    world: World, sends: Sends, record: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    client: JobClient | MessageClient = world.client if record else MessageClient()
    with nothing_happens(world, sends):
        for given, payload, why in BAD_PAYLOADS:
            with pytest.raises(PayloadError) as caught:
                client.enqueue(given, payload)
            assert caught.value.field == "payload"
            assert str(caught.value).startswith("payload: ")
            assert why in str(caught.value)
            assert SECRET not in str(caught.value) + capfd.readouterr().err


def test_what_the_database_can_never_hold_is_not_to_be_enqueued_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = DatabaseError({"C": "54000", "M": "string too long to represent as jsonb string"})
    monkeypatch.setattr("joblane.enqueue.own.insert_tasks", Mock(side_effect=error))
    with pytest.raises(EnqueueError, match="payload: the database cannot store it: string too long"):
        world.client.enqueue(sample_one, Sample())


# --- Settings ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("DATABASE_URL", None, MissingSettingError, r"not set: .*\. \.joblane/env; .* for example DATABASE_URL=postg"),
        ("DATABASE_URL", f"mysql://user:{SECRET}@host/db", ValueError, "DATABASE_URL: postgresql://user:password@"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}@127.0.0.1:1/jobs", DatabaseUnavailableError, "nothing was writ"),
        ("DATABASE_URL", "{server}/no_such_database", DatabaseUnavailableError, "nothing was written or sent"),
        ("JOBLANE_PREFIX", "Jobs!", ValueError, "prefix: 'Jobs!' is not lower-case"),
    ],
    ids=["no address", "an address of something else", "no server", "no database", "a bad prefix"],
)
def test_a_setting_with_which_no_task_can_be_enqueued_is_named_without_its_password(
    world: World, sends: Sends, monkeypatch: pytest.MonkeyPatch, name: str, value: str | None, error: Any, message: str
) -> None:
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value.format(server=world.url.rpartition("/")[0]))
    with nothing_happens(world, sends):
        for _ in range(2):
            with pytest.raises(error, match=message) as caught:
                world.client.enqueue(sample_one, Sample())
            assert SECRET not in str(caught.value)


# --- Without a record ----------------------------------------------------------------------------------------------

NEEDS_A_ROW = "it needs a row, and a MessageClient writes none"
WITHOUT_A_ROW: list[tuple[Task[Any, Any], Payload, dict[str, Any], str]] = [
    (sample_one, Sample(), {"session": object()}, "session: a MessageClient does not write rows; use JobClient()"),
    (
        sample_one,
        Sample(),
        {"connection": object(), "after_commit": print},
        "connection: a MessageClient does not write rows",
    ),
    (sample_one, Sample(), {"owner": "ann"}, f"owner: {NEEDS_A_ROW}"),
    (sample_one, Sample(), {"key": "acme"}, f"key: {NEEDS_A_ROW}"),
    (sample_one, Sample(), {"after": ["a"]}, f"after: {NEEDS_A_ROW}"),
    (sample_one, Sample(), {"unique_for": HOUR}, f"unique_for: {NEEDS_A_ROW}"),
    (sample_only, Sample(), {}, "task: 'sample:only': unique_for, which the task declares, needs a row, and a Messa"),
    (sample_one, Sample(), {"priority": 1}, "priority: there is no such option; there are queue, process_in, proc"),
    (sample_one, Sample(), {"countdown": 1}, "countdown: there is no such option; did you mean process_in?"),
    (sample_one, Sample(), {"retention": 2 * DAY}, "retention: 0 seconds to 1 day, which 'sample:one' declares"),
    (sample_one, Sample(), {"queue": Queue.LOW}, "queue: 'sample:one' has no lane in 'low'"),
    (sample_one, Sample(), {"process_in": 901 * SECOND}, "process_in: at most 15 minutes are possible with a Message"),
    (sample_one, Sample(), {"process_at": NOW + DAY}, "process_at: at most 15 minutes are possible with a MessageC"),
    (sample_loose, Loose(value="x" * MAX_MESSAGE_BYTES), {}, "payload: "),
]


def test_a_client_without_a_record_refuses_what_no_message_can_hold(world: World, sends: Sends) -> None:
    bare, refusal = MessageClient(), ""
    with nothing_happens(world, sends):
        for given, payload, options, why in WITHOUT_A_ROW:
            with pytest.raises(EnqueueError) as caught:
                bare.enqueue(given, payload, **options)
            refusal = str(caught.value)
            assert refusal.startswith(why)
            assert "owner, " not in refusal
    assert re.search(r" bytes; at most 1048576 are possible with a MessageClient", refusal)


def test_a_client_is_not_made_without_a_record() -> None:
    with pytest.raises(EnqueueError, match=r"^record: .* use MessageClient\(\)"):
        JobClient(record=False)  # type: ignore[arg-type]
