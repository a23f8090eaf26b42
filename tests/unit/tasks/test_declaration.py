"""Declarations of tasks: the options, and the refusal of invalid declarations with the reason."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ImportString,
    Json,
    PlainSerializer,
    Secret,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    ValidationError,
    computed_field,
    create_model,
    field_serializer,
    model_serializer,
)
from pydantic.alias_generators import to_camel

from joblane import Grants, Payload, Queue, Redacted, Task, TaskContext, cron, every, task
from joblane.errors import DeclarationError, PayloadError, UnreadablePayloadError
from joblane.names import MAX_PREFIX, function_name
from joblane.tasks.payload import describe
from joblane.tasks.task import MAX_SLUG

SECRET = "hunter2"


class Cat(Payload):
    kind: Literal["cat"]
    lives: int = 9


class Dog(Payload):
    kind: Literal["dog"]


class Export(Payload):
    tenant_id: UUID
    note: str = ""
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None


class Empty(Payload):
    pass


@task("data:export", also=[Queue.CRITICAL], timeout=timedelta(minutes=10), retention=timedelta(days=7))
def data_export(payload: Export, ctx: TaskContext) -> str:
    return f"{payload.note}!"


def data_other(payload: Empty, ctx: TaskContext) -> None:
    pass


def declared(**options: Any) -> Task[Any, Any]:
    return task("data:other", **options)(data_other)


def refusal(**options: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        declared(**options)
    return str(caught.value)


# --- Valid declarations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["delay", "apply_async", "send"])
def test_the_enqueue_methods_of_other_libraries_raise_with_advice(name: str) -> None:
    with pytest.raises(AttributeError, match=rf"a task has no attribute '{name}'; call jobs\.enqueue\(task, payload\)"):
        getattr(data_export, name)
    with pytest.raises(AttributeError, match=r"a task has no attribute 'colour'$"):
        getattr(data_export, "colour")  # noqa: B009 - a type checker would refuse the attribute


class Inner(Payload):
    blob: bytes


class Outer(Payload):
    name: str
    parts: list[Inner]


@task("data:blob")
def data_blob(payload: Outer, ctx: TaskContext) -> None: ...


def test_a_value_without_a_json_form_is_refused_by_its_field_and_not_shown() -> None:
    odd = Outer(name="x", parts=[Inner(blob=b"fine"), Inner(blob=b"\xff hunter2")])
    with pytest.raises(PayloadError, match=r"^payload: parts\.1\.blob: the value cannot be written as JSON") as caught:
        data_blob.write(odd)
    assert "hunter2" not in str(caught.value)


def test_a_declared_task_is_still_the_function() -> None:
    payload = Export(tenant_id=UUID(int=1), note="hi")
    assert data_export(payload, None) == "hi!"
    assert data_export.function.__name__ == "data_export"


def test_a_task_has_the_options_of_its_declaration() -> None:
    assert (data_export.type, data_export.folder, data_export.slug) == ("data:export", "data_export", "data-export")
    assert data_export.lanes == (Queue.DEFAULT, Queue.CRITICAL)
    assert data_export.payload is Export
    assert data_export.front_door is True
    assert data_export.numbers.function_timeout == timedelta(seconds=610)


def test_the_defaults_are_those_of_the_documentation() -> None:
    made = declared()
    assert (made.queue, made.also, made.max_retry, made.batch_size) == (Queue.DEFAULT, (), 5, 1)
    assert (made.timeout, made.retention) == (timedelta(minutes=1), timedelta(days=1))
    assert (made.schedules, made.max_concurrency, made.environment, made.grants) == ((), None, (), Grants())


@pytest.mark.parametrize(
    ("queue", "wait"),
    [("critical", timedelta(minutes=1)), ("default", timedelta(minutes=10)), ("low", timedelta(hours=1))],
)
def test_the_default_target_wait_follows_from_the_home_queue(queue: str, wait: timedelta) -> None:
    assert declared(queue=queue).target_wait == wait
    assert declared(queue=queue, target_wait=timedelta(seconds=5)).target_wait == timedelta(seconds=5)


def test_queues_may_be_given_by_name() -> None:
    assert declared(queue="low", also=["critical"]).lanes == (Queue.LOW, Queue.CRITICAL)


def test_the_ends_of_every_range_are_accepted() -> None:
    for options in (
        {"max_retry": 0},
        {"max_retry": 100},
        {"batch_size": 1},
        {"batch_size": 10},
        {"memory_mb": 128},
        {"memory_mb": 10240},
        {"max_concurrency": 2},
        {"max_concurrency": 1000},
        {"target_wait": timedelta(seconds=1)},
        {"target_wait": timedelta(days=1)},
        {"retention": timedelta(0)},
        {"timeout": timedelta(seconds=1)},
        {"timeout": timedelta(seconds=890)},
        {"timeout": timedelta(seconds=89), "batch_size": 10},
        {"retry_delay": timedelta(0)},
        {"retry_delay": [timedelta(seconds=1), timedelta(days=365)]},
    ):
        declared(**options)


@pytest.mark.parametrize("type_", ["jobs:other", "system:other"])
def test_types_of_the_library_and_the_system_are_closed_to_external_producers(type_: str) -> None:
    def other(payload: Empty, ctx: TaskContext) -> None:
        pass

    other.__name__ = type_.replace(":", "_")
    assert task(type_)(other).front_door is False
    assert task(type_, front_door=False)(other).front_door is False
    with pytest.raises(DeclarationError, match=f"task '{type_}': front_door: .* never take external messages"):
        task(type_, front_door=True)


def test_a_declaration_may_close_the_front_door() -> None:
    assert declared(front_door=False).front_door is False


def test_each_schedule_has_a_name() -> None:
    made = declared(schedule=["0 2 * * *", every(minutes=15), cron("0 8 * * 0", name="weekly")])
    assert [schedule.name for schedule in made.schedules] == ["0", "1", "weekly"]
    assert [schedule.name for schedule in declared(schedule="@hourly").schedules] == ["0"]


# --- Refused declarations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "type_",
    [
        "",
        "data",
        "Data:export",
        "data:",
        ":export",
        "data:export:x",
        "data-x:export",
        "data__x:y",
        "1data:x",
        "d:é",
        "a b:c",
        *(None, 3, b"data:export", ["data:export"]),
    ],
)
def test_an_invalid_type_is_refused_with_an_example(type_: Any) -> None:
    with pytest.raises(DeclarationError, match=r"'category:action' is required, .* for example 'data:export'"):
        task(type_)


def test_the_length_of_a_type_is_limited_by_the_name_of_its_function() -> None:
    longest = "a:" + "b" * (MAX_SLUG - 2)
    task(longest)
    assert len(function_name("p" * MAX_PREFIX, longest)) == 64
    with pytest.raises(DeclarationError, match="43 characters at most, or its function's name is too long"):
        task(longest + "b")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"queue": "fast"}, "queue: 'fast' is not one of critical, default, low"),
        ({"queue": None}, "queue: None is not one of"),
        ({"also": ["low", "fast"]}, "also: 'fast' is not one of critical, default, low"),
        ({"also": ["default"]}, "also: names a queue twice: default, default"),
        ({"also": ["low", "low"]}, "also: names a queue twice: default, low, low"),
        ({"max_retry": -1}, "max_retry: an integer from 0 to 100 is required, not -1"),
        ({"max_retry": 101}, "max_retry: an integer from 0 to 100 is required, not 101"),
        ({"max_retry": True}, "max_retry: an integer from 0 to 100 is required, not True"),
        ({"max_retry": 3.0}, "max_retry: an integer from 0 to 100 is required, not 3.0"),
        ({"max_retry": None}, "max_retry: an integer"),
        ({"batch_size": 0}, "batch_size: an integer from 1 to 10 is required, not 0"),
        ({"batch_size": 11}, "batch_size: an integer from 1 to 10 is required, not 11"),
        ({"memory_mb": 127}, "memory_mb: an integer from 128 to 10240 is required, not 127"),
        ({"memory_mb": 10241}, "memory_mb: an integer from 128 to 10240 is required, not 10241"),
        ({"max_concurrency": 1}, "max_concurrency: an integer from 2 to 1000 is required, not 1"),
        ({"max_concurrency": 1001}, "max_concurrency: an integer from 2 to 1000 is required, not 1001"),
        ({"target_wait": timedelta(0)}, "target_wait: a timedelta from 0:00:01 to 1 day"),
        ({"target_wait": timedelta(days=1, seconds=1)}, "target_wait: a timedelta from 0:00:01 to 1 day"),
        ({"target_wait": 60}, "target_wait: a timedelta from 0:00:01 to 1 day"),
        ({"timeout": timedelta(0)}, "timeout: a timedelta from 0:00:01 to"),
        ({"timeout": 60}, "timeout: a timedelta from 0:00:01 to"),
        ({"timeout": timedelta(days=2)}, "timeout: a timedelta from 0:00:01 to"),
        ({"timeout": timedelta(seconds=891)}, "Lambda's maximum is 0:15:00; the longest timeout here is 0:14:50"),
        ({"timeout": timedelta(minutes=30)}, "Lambda's maximum is 0:15:00; the longest timeout here is 0:14:50"),
        ({"timeout": timedelta(seconds=90), "batch_size": 10}, "with batch_size 10 .* longest timeout here is 0:01:29"),
        ({"retention": timedelta(seconds=-1)}, "retention: a timedelta from 0:00:00 to 3650 days"),
        ({"retention": timedelta(days=3651)}, "retention: a timedelta from 0:00:00 to 3650 days"),
        ({"retention": 0}, "retention: a timedelta"),
        ({"retry_delay": timedelta(seconds=-1)}, "retry_delay: a timedelta from 0 to 365 days"),
        ({"retry_delay": timedelta(days=366)}, "retry_delay: a timedelta from 0 to 365 days"),
        ({"retry_delay": 5}, "retry_delay: a timedelta from 0 to 365 days"),
        ({"retry_delay": "5s"}, "retry_delay: a timedelta from 0 to 365 days"),
        ({"retry_delay": []}, "retry_delay: a timedelta from 0 to 365 days"),
        ({"retry_delay": [timedelta(1), 5]}, "retry_delay: a timedelta from 0 to 365 days"),
        ({"schedule": "0 2 * *"}, "schedule: .*4 fields where Unix cron has five"),
        ({"schedule": "0 2 31 2 *"}, "schedule: .*never comes in month"),
        ({"schedule": "60 * * * *"}, "schedule: .*minute '60'"),
        ({"schedule": "@often"}, "schedule: .*no such macro"),
        ({"schedule": "rate(5 minutes)"}, "schedule: .*EventBridge's form"),
        ({"schedule": ["@daily", 5]}, "schedule: .*5 is neither a cron expression"),
        ({"schedule": 5}, "schedule: .*5 is neither a cron expression"),
        ({"schedule": None}, "schedule: .*None is neither a cron expression"),
        ({"schedule": [cron("0 1 * * *", name="a"), cron("0 2 * * *", name="a")]}, "two schedules have the same name"),
        ({"schedule": [cron("0 1 * * *", name="1"), "0 2 * * *"]}, "two schedules have the same name"),
        ({"schedule": cron("0 1 * * *", payload={"note": SECRET})}, "schedule: '0': .* an unknown field"),
        ({"on_archived": data_export}, "on_archived: 'data:export' takes Export, not ArchivedTask"),
        ({"on_archived": "alert"}, "on_archived: task type 'alert': 'category:action' is required"),
        ({"on_archived": 5}, "on_archived: task type 5: 'category:action' is required"),
        ({"aliases": "data:old"}, "aliases: a list of the names it had before is required"),
        ({"aliases": ["data:other"]}, "aliases: a list of the names it had before is required"),
        ({"aliases": ["old"]}, "aliases: task type 'old': 'category:action' is required"),
        ({"unique_for": timedelta(0)}, "unique_for: a timedelta from 0:00:01 to 3650 days"),
        ({"unique_for": 60}, "unique_for: a timedelta from 0:00:01 to 3650 days"),
        ({"unique_until": "never"}, "unique_until: 'never' is not one of finish, start"),
        ({"overlap": "wait"}, "overlap: 'skip' or 'allow' is required, not 'wait'"),
        ({"environment": "SMTP_HOST"}, "environment: "),
        ({"environment": ["SMTP-HOST"]}, "environment: 'SMTP-HOST'"),
        ({"environment": ["X"]}, "environment: 'X'"),
        ({"environment": [3]}, "environment: 3"),
    ],
)
def test_an_invalid_option_is_refused_with_the_reason(options: dict[str, Any], why: str) -> None:
    with pytest.raises(DeclarationError, match=f"^task 'data:other': .*{why}") as caught:
        declared(**options)
    assert SECRET not in str(caught.value)


def test_a_schedule_with_an_incomplete_payload_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"schedule: '0': .*tenant_id: Field required"):
        task("data:export", schedule="@daily")(data_export.function)
    made = task("data:export", schedule=cron("@daily", payload={"tenant_id": str(UUID(int=1))}))(data_export.function)
    assert made.schedules[0].payload == {"tenant_id": str(UUID(int=1))}


@pytest.mark.parametrize(("timeout", "fits"), [(timedelta(hours=10), 4), (timedelta(hours=1), 46)])
def test_all_receives_of_a_resumable_task_fit_the_count_of_sqs(timeout: timedelta, fits: int) -> None:
    declared(timeout=timeout, max_retry=fits, resumable=True)
    why = refusal(timeout=timeout, max_retry=fits + 1, resumable=True)
    assert (
        f"1000 are possible: SQS counts to 1000, and a queue keeps a message for 10 days; lower max_retry to {fits},"
        in why
    )


@pytest.mark.parametrize("seconds", [1, 890])
def test_a_task_of_one_invocation_may_have_the_most_retries(seconds: int) -> None:
    assert declared(timeout=timedelta(seconds=seconds), max_retry=100).max_retry == 100


@given(st.integers(891, 200_000), st.integers(0, 100))
def test_the_max_retry_that_a_refusal_names_is_the_largest_accepted(seconds: int, max_retry: int) -> None:
    options = {"timeout": timedelta(seconds=seconds), "resumable": True}
    try:
        declared(max_retry=max_retry, **options)
    except DeclarationError as error:
        if "lower max_retry to" not in str(error):
            return
        most = int(str(error).partition("lower max_retry to ")[2].split(",")[0])
        assert most < max_retry
        declared(max_retry=most, **options)
        assert "lower max_retry to" in refusal(max_retry=most + 1, **options)


def test_the_function_has_the_name_of_its_type() -> None:
    def export_data(payload: Empty, ctx: TaskContext) -> None:
        pass

    with pytest.raises(DeclarationError, match="the function is called 'export_data', not 'data_export'"):
        task("data:export")(export_data)


@pytest.mark.parametrize("annotation", [None, "dict[str, Any]", "int", "NoSuchClass", "Payload | None", "'Empty'"])
def test_an_annotation_must_be_a_payload_class(annotation: str | None) -> None:
    def data_other(payload, ctx):  # type: ignore[no-untyped-def]
        pass

    data_other.__annotations__.update({"payload": annotation} if annotation else {})
    with pytest.raises(DeclarationError, match="annotate 'payload' with a subclass of Payload"):
        task("data:other")(data_other)


def test_a_function_with_other_parameters_is_refused() -> None:
    def data_other(payload: Empty) -> None:
        pass

    with pytest.raises(DeclarationError, match=r"the function takes \(payload, ctx\), not 1 parameters"):
        task("data:other")(data_other)  # type: ignore[arg-type]


def test_a_function_that_yields_is_refused_with_the_loop_that_would_be_right() -> None:
    def generator(payload: Empty, ctx: TaskContext) -> Iterator[int]:
        yield 1

    async def asynchronous(payload: Empty, ctx: TaskContext) -> AsyncIterator[int]:
        yield 1

    for function in (generator, asynchronous):
        function.__name__ = "data_other"
        with pytest.raises(DeclarationError, match=r"the function yields, .* ctx\.each\(items\), .* ctx\.aeach"):
            task("data:other")(function)


def test_a_coroutine_function_is_declared_as_asynchronous() -> None:
    async def data_other(payload: Empty, ctx: TaskContext) -> None:
        pass

    def data_import(payload: Empty, ctx: TaskContext) -> None:
        pass

    assert task("data:other")(data_other).is_async
    assert not task("data:import")(data_import).is_async


# --- Payloads that cannot read their written form ------------------------------------------------------------------

READABLE_SECRET = PlainSerializer(lambda secret: secret.get_secret_value())


class Renamed(Payload):
    first: str
    number: int = Field(alias="no")


class Generated(Payload):
    model_config = ConfigDict(alias_generator=to_camel)
    order_number: int


class ReadByAlias(Payload):
    number: int = Field(validation_alias=AliasChoices("no", AliasPath("numbers", 0)))


class WrittenByAlias(Payload):
    model_config = ConfigDict(serialize_by_alias=True, validate_by_name=True)
    number: int = Field(serialization_alias="no")


class Excluded(Payload):
    number: int = Field(exclude=True)


class Sum(Payload):
    number: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return self.number


class Login(Payload):
    password: SecretStr


class Keys(Payload):
    keys: dict[str, list[SecretBytes]]


class Pin(Payload):
    pin: Annotated[Secret[int], Field()] | None = None


class Nested(Payload):
    pets: list[Cat | Renamed]


class Deep(Payload):
    by_name: dict[str, Nested]


class Node(BaseModel):
    following: Node | None = None
    login: Login | None = None


class Chain(Payload):
    start: Node


class Written(Payload):
    body: Json[dict[str, str]]


class Open(Payload):
    animals: list[SerializeAsAny[Node]]


class Extra(BaseModel):
    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Annotated[str, Redacted]]


class Extras(Payload):
    inner: Extra


def taking(payload: type[Payload]) -> Task[Any, Any]:
    def data_other(payload: Payload, ctx: TaskContext) -> None:
        pass

    data_other.__annotations__["payload"] = payload
    return task("data:other")(data_other)


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (Renamed, "Renamed.number: is written as 'number', .* drop its alias, or .*validate_by_name=True"),
        (Generated, "Generated.order_number: is written as 'order_number', a key by which it is not read"),
        (ReadByAlias, "ReadByAlias.number: is written as 'number'"),
        (WrittenByAlias, "WrittenByAlias.number: is written as 'no', .*serialize_by_alias=False"),
        (Excluded, "Excluded.number: is required and never written; drop exclude=True"),
        (Sum, "Sum.total: a computed field is written, .*make it a plain property"),
        (Login, "Login.password: a secret is written as asterisks; pass its name, and look it up in the handler"),
        (Keys, "Keys.keys: a secret is written"),
        (Pin, "Pin.pin: a secret is written"),
        (Nested, "Nested.pets.number: is written as 'number'"),
        (Deep, "Deep.by_name.pets.number: is written as 'number'"),
        (Chain, "Chain.start.login.password: a secret is written"),
        (Written, "Written.body: Json is written as a value and read as a string"),
        (Open, "Open.animals: with SerializeAsAny"),
        (Extras, "Extra marks fields as redacted that it does not name"),
    ],
)
def test_a_payload_that_cannot_read_its_written_form_is_refused(payload: type[Payload], why: str) -> None:
    with pytest.raises(DeclarationError, match=f"^task 'data:other': {why}"):
        taking(payload)


class ByName(Payload):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)
    order_number: int = 1


class ByNameOnly(Payload):
    model_config = ConfigDict(validate_by_alias=False)
    number: int = Field(1, alias="no")


class ByAlias(Payload):
    model_config = ConfigDict(serialize_by_alias=True)
    number: int = Field(1, alias="no")


class ByEither(Payload):
    number: int = Field(1, validation_alias=AliasChoices("number", "no"))


class WithUnusedAlias(Payload):
    number: int = Field(1, serialization_alias="no")


class WithExcludedField(Payload):
    number: int = Field(1, exclude=True)


class WithIgnoredExtra(Payload):
    model_config = ConfigDict(extra="ignore")

    @computed_field  # type: ignore[prop-decorator]
    @property
    def total(self) -> int:
        return 1


class WithReadableSecret(Payload):
    password: SecretStr = SecretStr("x")
    token: Annotated[SecretStr, READABLE_SECRET] = SecretStr("x")
    tokens: list[Annotated[SecretStr, READABLE_SECRET]] = Field([SecretStr("x")])

    @field_serializer("password")
    def _show(self, value: SecretStr) -> str:
        return value.get_secret_value()


class WithOwnSerializer(Payload):
    number: int = Field(1, alias="no")

    @model_serializer
    def _write(self) -> dict[str, int]:
        return {"no": self.number}


class Recursive(Payload):
    children: list[Recursive] = Field([])


@pytest.mark.parametrize(
    "payload",
    [
        ByName,
        ByNameOnly,
        ByAlias,
        ByEither,
        WithUnusedAlias,
        WithExcludedField,
        WithIgnoredExtra,
        WithReadableSecret,
        WithOwnSerializer,
        Recursive,
    ],
)
def test_a_payload_that_can_read_its_written_form_is_accepted(payload: type[Payload]) -> None:
    made = taking(payload)
    assert made.read(made.write(payload()), made.schema_digest) == payload()


# --- Payloads ------------------------------------------------------------------------------------------------------


def test_payloads_are_frozen_and_refuse_unknown_fields() -> None:
    payload = Export(tenant_id=UUID(int=1))
    with pytest.raises(ValueError, match="frozen"):
        payload.note = "x"  # type: ignore[misc]
    with pytest.raises(ValueError, match="Extra inputs"):
        Export(tenant_id=UUID(int=1), unknown=1)  # type: ignore[call-arg]


def test_a_written_payload_is_read_back() -> None:
    payload = Export(tenant_id=UUID(int=1), pet=Cat(kind="cat"))
    written = data_export.write(payload)
    assert written["tenant_id"] == "00000000-0000-0000-0000-000000000001"
    assert data_export.read(written, data_export.schema_digest) == payload


def test_only_the_declared_class_is_written() -> None:
    class Longer(Export):
        more: int = 1

    for wrong in ({"tenant_id": "x"}, Empty(), None, Longer(tenant_id=UUID(int=1))):
        with pytest.raises(PayloadError, match=r"payload: data:export takes Export, not (dict|Empty|NoneType|Longer)"):
            data_export.write(wrong)  # type: ignore[arg-type]


def test_a_refused_payload_names_fields_and_never_their_values() -> None:
    wrong = {"tenant_id": SECRET, "note": {"deep": SECRET}, "pet": {"kind": SECRET}, "more": SECRET}
    with pytest.raises(UnreadablePayloadError) as caught:
        data_export.read(wrong, None)
    for field in ("tenant_id: ", "note: ", "pet: ", "Export: an unknown field; known are tenant_id, note, pet"):
        assert field in str(caught.value)
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


class Mappings(Payload):
    counts: dict[str, int] = Field({})
    numbered: dict[int, int] = Field({})
    pets: dict[str, list[Cat]] = Field({})
    either: Cat | list[int] = Field([])
    count: int = Field(0, validation_alias=AliasChoices("count", "n"))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({SECRET: 1}, "Mappings: an unknown field; known are counts, numbered, pets, either, count"),
        ({"counts": {SECRET: "x"}}, "counts: Input should be a valid integer"),
        ({"numbered": {SECRET: 1}}, "numbered: Input should be a valid integer"),
        ({"numbered": {"443322": "x"}}, "numbered: Input should be a valid integer"),
        ({"pets": {SECRET: [{"kind": "cat"}, {}]}}, "pets.1.kind: Field required"),
        ({"pets": {SECRET: [{"kind": "cat", SECRET: 1}]}}, "pets.0: an unknown field; known are kind, lives"),
        ({"pets": {SECRET: [{"kind": "cat", "lives": "x"}]}}, "pets.0.lives: Input should be a valid integer"),
        ({"either": {"kind": "cat", "443322": 1}}, "either: an unknown field; known are kind, lives"),
        ({"n": "x"}, "n: Input should be a valid integer"),
    ],
)
def test_a_refusal_shows_no_key_of_the_producer(wrong: dict[str, Any], error: str) -> None:
    with pytest.raises(UnreadablePayloadError, match=f"^payload: not a valid Mappings: {error}") as caught:
        taking(Mappings).read(wrong, None)
    assert SECRET not in str(caught.value)
    assert "443322" not in str(caught.value)


class Odd(Payload):
    size: ByteSize = ByteSize(0)
    imported: ImportString[Any] | None = None


@pytest.mark.parametrize("wrong", [{"size": f"1 {SECRET}"}, {"imported": f"{SECRET}.x"}])
def test_pydantic_messages_that_show_a_value_are_replaced(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Odd.model_validate(wrong)
    assert SECRET in str(caught.value.errors()[0]["msg"])
    assert SECRET not in describe(caught.value, Odd)


def test_a_refusal_lists_ten_of_many_declared_fields() -> None:
    wide = create_model("Wide", __base__=Payload, **{f"field{n}": (int, 0) for n in range(11)})  # type: ignore[call-overload]
    with pytest.raises(UnreadablePayloadError, match=r"known are field0, .*, field9$"):
        taking(wide).read({"field": 1}, None)


@pytest.mark.parametrize("wrong", [None, [], "text", 3])
def test_a_payload_must_be_an_object(wrong: Any) -> None:
    with pytest.raises(UnreadablePayloadError, match="payload: not a valid Export: "):
        data_export.read(wrong, None)


def test_the_message_about_many_unknown_fields_stays_short() -> None:
    with pytest.raises(UnreadablePayloadError) as caught:
        data_export.read({f"field{n}": 1 for n in range(1000)}, None)
    assert len(str(caught.value)) < 1500


def test_unknown_fields_are_refused_unless_the_message_has_another_schema() -> None:
    payload = {"tenant_id": str(UUID(int=1)), "added": 1}
    assert data_export.read(payload, "another") == Export(tenant_id=UUID(int=1))
    for schema in (None, data_export.schema_digest):
        with pytest.raises(UnreadablePayloadError, match="an unknown field; known are tenant_id, note, pet"):
            data_export.read(payload, schema)


def test_the_schema_digest_changes_only_with_the_schema() -> None:
    assert data_export.schema_digest == task("data:export")(data_export.function).schema_digest
    assert data_export.schema_digest != declared().schema_digest
    assert len(data_export.schema_digest) == 12
