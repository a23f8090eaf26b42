"""Declared limits: what is refused at import, and the names that a task carries."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

import pytest

from joblane import Payload, Redacted, TaskContext, task
from joblane.errors import DeclarationError, EnqueueError
from joblane.record.task_types import declared_limits
from joblane.tasks.limit import Limit, Rate
from joblane.tasks.task import Task

MINUTE = timedelta(minutes=1)


class Address(Payload):
    city: str = ""


class Order(Payload):
    account_id: int | None = None
    token: Annotated[str, Redacted] = ""
    address: Address = Address()
    billing: Address | None = None
    either: Annotated[Address | int | None, "documented"] = None
    size: float = 0.0
    parts: dict[str, int] | None = None
    lines: list[int] | None = None
    anything: Any = None
    name: Annotated[str | int | None, "documented"] = None


def declare(type_: str = "shop:order", **options: Any) -> Task[Order, None]:
    def function(payload: Order, ctx: TaskContext) -> None: ...

    function.__name__ = type_.replace(":", "_")
    return task(type_, **options)(function)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_per_key": 1}, "max_per_key: give key too"),
        ({"order": "first-due"}, "order: give key too"),
        ({"key": "account_id"}, "key: give max_per_key, rate or order too"),
        ({"key": "account_id", "order": "first-due", "max_per_key": 2}, "max_per_key: with an order only one task"),
        ({"key": "account_id", "order": "fifo"}, "order: 'first-due' or None is required, not 'fifo'"),
        ({"key": "nobody", "max_per_key": 1}, "key: Order has no field 'nobody'"),
        ({"key": "address.street", "max_per_key": 1}, "key: Address has no field 'street'"),
        ({"key": "billing.street", "max_per_key": 1}, "key: Address has no field 'street'"),
        ({"key": "billing..city", "max_per_key": 1}, "key: Address has no field ''"),
        ({"key": "either.city", "max_per_key": 1}, "key: int has no field 'city'"),
        ({"key": "account_id.city", "max_per_key": 1}, "key: int has no field 'city'"),
        ({"key": "parts.city", "max_per_key": 1}, "key: dict has no field 'city'"),
        ({"key": "billing", "max_per_key": 1}, "key: billing: a field with a string, an integer or a boolean is"),
        ({"key": "tenant,either", "max_per_key": 1}, "key: either: a field with a string, an integer or a boolean"),
        ({"key": "parts", "max_per_key": 1}, "key: parts: a field with a string, an integer or a boolean is required"),
        ({"key": "lines", "max_per_key": 1}, "key: lines: a field with a string, an integer or a boolean is required"),
        ({"key": "size", "max_per_key": 1}, "key: size: a field with a string, an integer or a boolean is required"),
        ({"key": "token", "max_per_key": 1}, "key: 'token' is a redacted field"),
        ({"key": "account_id,token", "max_per_key": 1}, "key: a field of the payload"),
        ({"key": "tenant,tenant", "max_per_key": 1}, "key: a field of the payload"),
        ({"key": "", "max_per_key": 1}, "key: a field of the payload"),
        ({"key": len, "max_per_key": 1}, "key: a field of the payload"),
        ({"key": "tenant", "max_per_key": -1}, "max_per_key: an integer from 0 to 10000 is required, not -1"),
        ({"max_total": -1}, "max_total: an integer from 0 to 10000 is required, not -1"),
        ({"max_total": 2.0}, "max_total: an integer"),
        ({"max_total": True}, "max_total: an integer"),
        ({"limit": "openai"}, "limit: a Limit is required, not 'openai'"),
        ({"limit": [Limit("a", 1), Limit("b", 1)]}, "limit: a type can have one shared limit; split the type"),
        ({"limit": Limit("a:b", 1)}, "limit: 'a:b': lower-case letters"),
        ({"limit": Limit("openai")}, "limit: 'openai' has neither a total nor a rate"),
        ({"limit": Limit("openai", -1)}, "limit: 'openai': total: an integer from 0"),
        ({"rate": 5}, "rate: a Rate is required, not 5"),
        ({"rate": Rate(0, per=MINUTE)}, "rate: starts: an integer from 1"),
        ({"rate": Rate(1, per=MINUTE, burst=0)}, "rate: burst: an integer from 1"),
        (
            {"rate": Rate(1, per=timedelta(days=1), burst=3651)},
            "rate: burst: at most 3,650 at this rate, the starts of",
        ),
        ({"rate": Rate(1, per=timedelta(0))}, "rate: per: a timedelta from 1 second to 1 day"),
        ({"limit": Limit("openai", rate=Rate(0, per=MINUTE))}, "limit: 'openai': rate: starts: an integer from 1"),
    ],
)
def test_a_limit_that_cannot_work_is_refused_at_import(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DeclarationError, match=re.escape(f"task 'shop:order': {said}")):
        declare(**options)


@pytest.mark.parametrize("key", ["billing.city", "name", "tenant,name", "anything", "anything.id", "account_id"])
def test_a_field_whose_values_can_be_keys_is_accepted(key: str) -> None:
    flow = declare(key=key, max_per_key=1).flow
    assert flow is not None
    assert ",".join(flow.key) == key


def names(one: Task[Order, None], payload: dict[str, Any], tenant: str | None = None, **how: Any) -> Any:
    assert one.flow is not None
    return one.flow.row(one.type, payload, tenant, **how).get("limits")


def test_a_task_carries_the_names_of_its_limits() -> None:
    full = declare(key="tenant, account_id", max_per_key=1, max_total=5, limit=Limit("openai", 3))
    assert names(full, {"account_id": 7}, "acme") == ["shop:order/acme 7", "shop:order", "openai"]
    assert names(full, {"account_id": 7}) == [None, "shop:order", "openai"]  # no tenant, so no key
    assert names(full, {"account_id": None}, "acme") == [None, "shop:order", "openai"]
    assert names(full, {}, key="other") == ["shop:order/other", "shop:order", "openai"]
    nested = declare(key="address.city", max_per_key=1)
    assert names(nested, {"address": {"city": "Ulm"}}) == ["shop:order/Ulm", None, None]
    assert names(nested, {"address": None}) is None
    assert names(declare(rate=Rate(1, per=MINUTE)), {}) == [None, "shop:order", None]
    assert names(declare(key="account_id", rate=Rate(1, per=MINUTE)), {"account_id": True}) == [
        "shop:order/true", None, None
    ]  # fmt: skip


@pytest.mark.parametrize("value", [1.5, [1], {"a": 1}, "", "x" * 201, "ä"])
def test_a_value_that_is_no_key_is_refused(value: Any) -> None:
    with pytest.raises(EnqueueError, match=r"^key: "):
        names(declare(key="account_id", max_per_key=1), {"account_id": value})


def test_tasks_of_a_former_name_keep_their_limits() -> None:
    renamed = declare(aliases=["shop:sale"], key="tenant", max_per_key=2, max_total=9, limit=Limit("openai", 3))
    assert declared_limits({renamed.type: renamed}) == [
        {"name": "shop:order/", "slots": 2},
        {"name": "shop:order", "slots": 9},
        {"name": "openai", "slots": 3},
        {"name": "shop:sale/", "slots": 2},
        {"name": "shop:sale", "slots": 9},
    ]


def test_types_that_share_a_limit_declare_the_same_values() -> None:
    one = declare(limit=Limit("openai", 3, Rate(60, per=MINUTE, burst=5)), key="tenant", max_per_key=2)
    other = declare("shop:refund", limit=Limit("openai", 3, Rate(60, per=MINUTE, burst=5)), max_total=1)
    assert declared_limits({task.type: task for task in (one, other)}) == [
        {"name": "shop:order/", "slots": 2},
        {"name": "openai", "slots": 3, "step": 1.0, "burst": 5},
        {"name": "shop:refund", "slots": 1},
    ]
    different = declare("shop:third", limit=Limit("openai", 4))
    with pytest.raises(
        DeclarationError,
        match=r"^task 'shop:third': limit: 'openai' is 4 at a time, and in task 'shop:order' it is 3 at",
    ):
        declared_limits({task.type: task for task in (one, different)})
