"""Declarations of hooks, and what a hook of an enqueue may change."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from typing import Any

import pytest
from pydantic import BaseModel, Field, ValidationError

from joblane import Job, Payload, TaskContext, around, enqueueing, task
from joblane.enqueue import hooks
from joblane.enqueue.check import check
from joblane.enqueue.hooks import with_hooks
from joblane.errors import DeclarationError, EnqueueError
from joblane.record.task.insert import NewTask
from joblane.tasks.event_kinds import AROUND, ENQUEUEING


class Export(Payload):
    number: int = 1


class Part(BaseModel):
    name: str = "a"


class Parts(Payload):
    numbers: list[int] = Field(default=[1])
    by_name: dict[str, list[int]] = Field(default={"a": [1]})
    kinds: set[str] = Field(default={"a"})
    pairs: tuple[list[int], ...] = ([1],)
    part: Part = Part()


@task("data:export", aliases=["data:dump"])
def data_export(payload: Export, ctx: TaskContext) -> None:
    pass


@task("data:parts")
def data_parts(payload: Parts, ctx: TaskContext) -> None:
    pass


@task("data:fetch")
async def data_fetch(payload: Export, ctx: TaskContext) -> None:
    pass


def plain(ctx: TaskContext) -> Iterator[None]:
    yield


async def asynchronous(ctx: TaskContext) -> AsyncIterator[None]:
    yield


def returns(ctx: TaskContext) -> None:
    return None


async def awaits(ctx: TaskContext) -> None:
    return None


def with_none() -> Iterator[None]:
    yield


def with_two(ctx: TaskContext, more: int) -> Iterator[None]:
    yield


def enqueued(job: Job) -> NewTask:
    return check(with_hooks(job), record=True, prefix="jobs")


@pytest.mark.parametrize(
    ("hook", "problem"),
    [
        (returns, r"around: returns: a generator function with one yield is required: def hook\(ctx\)\. Tasks are"),
        (awaits, "around: awaits: a generator function with"),
        (7, "around: 7: a generator function with"),
        ([data_export], r"around: \[Task\(.{,30}\.\.\..*\]: a generator function with one yield is required"),
        (with_none, r"around: with_none: the function takes the context of the run: def hook\(ctx\)"),
        (with_two, "around: with_two: the function takes the context of the run"),
    ],
)
def test_a_hook_around_runs_is_a_generator_function_of_the_context(hook: Any, problem: str) -> None:
    for declare in (around, around("data:export"), around(data_export)):
        with pytest.raises(DeclarationError, match=problem):
            declare(hook)
    assert AROUND == []


@pytest.mark.parametrize(
    ("tasks", "problem"),
    [
        (("export",), "task type 'export': 'category:action' is required"),
        ((7, "data:export"), "task type 7"),
        ((data_export, None), "task type None"),
    ],
)
def test_a_hook_names_tasks_or_their_types(tasks: Any, problem: str) -> None:
    with pytest.raises(DeclarationError, match=problem):
        around(*tasks)


def test_an_async_hook_around_a_plain_handler_is_refused_at_its_declaration() -> None:
    with pytest.raises(DeclarationError, match="asynchronous is asynchronous, and the handler of 'data:export' is a"):
        around(data_fetch, data_export)(asynchronous)
    assert AROUND == []
    around(data_fetch)(asynchronous)
    around(data_fetch)(plain)


def test_a_hook_is_for_all_types_or_for_those_that_it_names() -> None:
    def of(*tasks: Any) -> list[bool]:
        around(*tasks)(plain) if tasks else around(plain)
        return [AROUND[-1].is_for(each) for each in (data_export, data_fetch)]

    assert of() == [True, True]
    assert of("data:dump") == [True, False]
    assert of(data_fetch) == [False, True]
    assert of(data_fetch, "data:export") == [True, True]


# --- Enqueues ------------------------------------------------------------------------------------------------------


def generates(job: Job, headers: dict[str, str]) -> Iterator[None]:
    yield


async def awaits_two(job: Job, headers: dict[str, str]) -> None:
    return None


def one(job: Job) -> None:
    return None


def four(job: Job, headers: dict[str, str], tags: list[str], more: int) -> None:
    return None


@pytest.mark.parametrize("hook", [generates, awaits_two, one, four, 7])
def test_a_hook_of_enqueues_is_a_plain_function_of_job_and_headers(hook: Any) -> None:
    with pytest.raises(DeclarationError, match=r"enqueueing: (7|\w+): .*job, headers\)"):
        enqueueing(hook)
    assert ENQUEUEING == []


def test_a_hook_changes_the_headers_and_tags_that_it_gets_and_not_those_of_the_job() -> None:
    @enqueueing
    def first(job: Job, headers: dict[str, str]) -> None:
        headers["seen"] = ",".join([*job.headers, *job.tags])
        with pytest.raises(TypeError):
            job.headers["lost"] = "1"  # type: ignore[index]
        with pytest.raises(AttributeError):
            job.tags.append("lost")  # type: ignore[attr-defined]

    job = Job(data_export, Export(), headers={"own": "1"}, tags=["nightly"])
    assert enqueued(job).headers == {"own": "1", "seen": "own,nightly"}
    assert (job.headers, job.tags) == ({"own": "1"}, ["nightly"])


def test_hooks_add_headers_and_tags_in_their_order_and_leave_the_job_of_the_caller() -> None:
    seen: list[Any] = []

    @enqueueing
    def first(job: Job, headers: dict[str, str]) -> None:
        seen.append((job.task.type, job.payload, job.tenant, dict(headers)))
        headers["request"] = "r1"

    @enqueueing
    def second(job: Job, headers: dict[str, str], tags: list[str]) -> None:
        seen.append(headers["request"])
        tags.append("web")

    job = Job(data_export, Export(number=3), tenant="acme", headers={"own": "1"}, tags=("nightly",))
    new = enqueued(job)
    assert (new.headers, new.options.tags) == ({"own": "1", "request": "r1"}, ["nightly", "web"])
    assert seen == [("data:export", Export(number=3), "acme", {"own": "1"}), "r1"]
    assert (job.headers, job.tags) == ({"own": "1"}, ("nightly",))


def sets_number(job: Job, headers: dict[str, Any], tags: list[Any]) -> None:
    headers["number"] = 7


def sets_key(job: Job, headers: Any, tags: list[Any]) -> None:
    headers[7] = "number"


def adds_number(job: Job, headers: dict[str, Any], tags: list[Any]) -> None:
    tags.append(7)


def changes_payload(job: Job, headers: dict[str, str], tags: list[str]) -> None:
    job.payload = Export(number=2)


def changes_queue(job: Job, headers: dict[str, str], tags: list[str]) -> None:
    job.queue = None


@pytest.mark.parametrize(
    ("hook", "field", "problem"),
    [
        (sets_number, "headers", "the hook .*sets_number sets 'number': a string is required, not int"),
        (sets_key, "headers", "the hook .*sets_key sets the name 7: a string is required, not int"),
        (adds_number, "tags", "the hook .*adds_number adds a tag: a string is required, not int"),
        (changes_payload, "payload", "a hook of an enqueue changes only the headers and tags"),
        (changes_queue, "queue", "a hook of an enqueue changes only the headers and tags"),
    ],
)
def test_a_hook_of_enqueues_that_does_something_else_is_refused(hook: Any, field: str, problem: str) -> None:
    enqueueing(hook)
    with pytest.raises(EnqueueError, match=f"{field}: {problem}") as raised:
        enqueued(Job(data_export, Export()))
    if hook.__name__.startswith("changes"):
        assert raised.traceback[-2].name == hook.__name__  # at that line


def adds_to_list(payload: Any) -> None:
    payload.numbers.append(2)


def adds_in_place(payload: Any) -> None:
    payload.by_name["a"] += [2]


def sets_key_of_payload(payload: Any) -> None:
    payload.by_name["b"] = [2]


def adds_to_set(payload: Any) -> None:
    payload.kinds |= {"b"}


def adds_to_list_in_tuple(payload: Any) -> None:
    payload.pairs[0].insert(0, 2)


def sets_field(payload: Any) -> None:
    payload.numbers = [2]


@pytest.mark.parametrize(
    "change", [adds_to_list, adds_in_place, sets_key_of_payload, adds_to_set, adds_to_list_in_tuple, sets_field]
)
def test_a_hook_that_changes_a_value_in_the_payload_is_refused_at_that_line(change: Any) -> None:
    @enqueueing
    def changes(job: Job, headers: dict[str, str]) -> None:
        change(job.payload)

    job = Job(data_parts, Parts())
    with pytest.raises((EnqueueError, ValidationError), match=r"changes only the headers and tags|frozen") as raised:
        enqueued(job)
    assert change.__name__ in [each.name for each in raised.traceback]
    assert job.payload == Parts()


def test_a_hook_that_changes_a_model_in_the_payload_is_named() -> None:
    @enqueueing
    def changes(job: Job, headers: dict[str, str]) -> None:
        job.payload.part.name = "b"  # type: ignore[attr-defined]

    job = Job(data_parts, Parts())
    with pytest.raises(EnqueueError, match=r"^payload: the hook .*changes changes it; a hook of an enqueue changes on"):
        enqueued(job)
    assert job.payload == Parts()


def test_a_hook_reads_and_copies_the_payload_as_it_is_and_the_parents_too() -> None:
    seen: list[Any] = []

    @enqueueing
    def reads(job: Job, headers: dict[str, str]) -> None:
        payload = deepcopy(job.payload)
        adds_to_list(payload)
        seen.extend([payload, job.payload == Parts(), job.payload.model_dump_json() == Parts().model_dump_json()])
        with pytest.raises(EnqueueError):
            job.after.append("lost")  # type: ignore[attr-defined]

    enqueued(Job(data_parts, Parts(), after=["parent"]))
    assert seen == [Parts(numbers=[1, 2]), True, True]


def test_a_hook_that_reads_no_payload_has_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    @enqueueing
    def stamps(job: Job, headers: dict[str, str]) -> None:
        headers["type"] = job.task.type

    monkeypatch.setattr(hooks, "read_only", lambda value: None if isinstance(value, Payload) else value)
    assert enqueued(Job(data_parts, Parts())).headers == {"type": "data:parts"}


def test_an_error_of_a_hook_is_raised_by_the_enqueue() -> None:
    @enqueueing
    def fails(job: Job, headers: dict[str, str]) -> None:
        raise LookupError("no request")

    with pytest.raises(LookupError, match="no request"):
        enqueued(Job(data_export, Export()))


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (Job("data:export", Export()), "task"),  # type: ignore[arg-type]
        (Job(data_export, Export(), headers=["a"]), "headers"),  # type: ignore[arg-type]
        (Job(data_export, Export(), tags="nightly"), "tags"),
        (Job(data_export, Export(), tags=7), "tags"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_job_is_refused_by_its_check_and_seen_by_no_hook(job: Job, field: str) -> None:
    seen: list[Job] = []

    @enqueueing
    def sees(job: Job, headers: dict[str, str]) -> None:
        seen.append(job)

    with pytest.raises(EnqueueError) as raised:
        enqueued(job)
    assert (raised.value.field, seen) == (field, [])
