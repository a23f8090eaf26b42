"""``joblane.enqueue`` checks payloads: it refuses only what a worker refuses too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pg8000.exceptions import DatabaseError
from pydantic import (
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    Json,
    RootModel,
    ValidationError,
    field_validator,
    model_validator,
)

from joblane import Payload, TaskContext, task
from joblane.record.driver.database import Database
from joblane.record.payload_description import check_of
from joblane.record.task_types import register

PROBLEMS = """
select joblane.payload_problem(x -> 0, x -> 1, x -> 2) from jsonb_array_elements($1::jsonb) as x
"""


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


class Size(IntEnum):
    S = 1
    L = 2


class Mixed(Enum):
    ONE = 1
    TWO = "two"


class Lenient(Enum):
    A = "a"

    @classmethod
    def _missing_(cls, value: object) -> Lenient:
        return cls.A


class Line(Payload):
    sku: str
    count: int = 1
    tags: list[str] | None = None


class Open(BaseModel):
    model_config = ConfigDict(extra="allow", coerce_numbers_to_str=True)
    name: str


class Tree(BaseModel):
    value: int
    children: list[Tree] = Field(default=[])


class Root(RootModel[list[int]]):
    pass


class Cat(Payload):
    kind: Literal["cat"]
    lives: int


class Dog(Payload):
    kind: Literal["dog"]
    name: str


class Before(BaseModel):
    """Accepts a text for the whole."""

    n: int

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return {"n": 1} if isinstance(value, str) else value


def from_list(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else value


ANNOTATIONS: list[Any] = [
    int, float, bool, str, bytes, Decimal, datetime, date, time, timedelta, UUID, HttpUrl, Any, None, dict, list,
    int | None, str | int | None, list[int], set[str], frozenset[float], tuple[int, str], tuple[int, ...],
    Sequence[int], dict[str, int], dict[str, list[bool]], Literal["a", "b"], Literal[1, "x"], Literal[1], Literal[True],
    Colour, Size, Mixed, Lenient, Colour | None, Line, Line | None, list[Line], Open, Tree, Root, Cat | Dog, Before,
    Annotated[Cat | Dog, Field(discriminator="kind")], Json[int], Annotated[int, Field(gt=3, le=9)],
    Annotated[str, Field(min_length=2, pattern="^[a-z]+$")], Annotated[int, BeforeValidator(from_list)],
    Annotated[float, Field(strict=True)], Annotated[list[int], Field(min_length=1)],
]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, 2, 4, -3, 1.0, 5.5, 1e300, 10**30, "", "a", "b", "red", "cat", "x", "5", " 5 ", "5.0",
    "5.5",
    "1_000", "+5", "-0", "inf", "-Infinity", "nan", "NaN", "1e5", "٣", "true", "OFF", "yes", "null", "[1]", "12", "P1D",
    "2030-01-31", "2030-01-31T12:00:00Z", "2030-01-31T12:00:00", "12:30", "1", "b2c1f2f0-7a0e-4c37-9f3c-1d3b0f9f4a11",
    "https://example.org/x", [], [1], ["1"], ["x"], [None], [1, "x"], [[1]], {}, {"a": 1}, {"a": "x"}, {"a": [True]},
    {"sku": "a"}, {"sku": 1}, {"sku": "a", "count": "2"}, {"sku": "a", "tags": None}, {"sku": "a", "other": 1},
    {"sku": "a", "count": None}, [{"sku": "a"}], [{"sku": "a", "count": "x"}], {"name": 5}, {"name": "n", "more": 1},
    {"kind": "cat", "lives": 9}, {"kind": "dog", "name": "n"}, {"kind": "cow"}, {"kind": "cat"}, {"n": 1}, {"n": "x"},
    {"value": 1, "children": [{"value": "2"}]}, {"value": 1, "children": [{"value": "x"}]},
    {"value": 1, "children": {}}, {"value": 1, "children": [{}]}, [0, [1, [], 1]], 1893456000, "5 days", "0x1f", "1,5",
    "True", "t", "½", "Ⅷ",
]  # fmt: skip
KEYS = ["sku", "count", "name", "value", "children", "kind", "n", "x"]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**20) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(VALUES),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


class Fields(Payload):
    """Aliases, defaults and validators of single fields."""

    model_config = ConfigDict(validate_by_name=True)
    first: int = Field(alias="FIRST")
    second: Annotated[str, Field(validation_alias=AliasChoices("two", "second"))] = "x"
    third: int = 3
    fourth: int

    @field_validator("third", "fourth", mode="before")
    @classmethod
    def _of_text(cls, value: Any) -> Any:
        return len(value) if isinstance(value, (str, list)) else value


FIELDS = st.dictionaries(st.sampled_from(["FIRST", "first", "two", "second", "third", "fourth", "x"]), JSON, max_size=5)
MODELS: list[type[BaseModel]] = [
    type("Model", (Payload,), {"__annotations__": {"v": annotation}}) for annotation in ANNOTATIONS
]
CHECKED: list[type[BaseModel]] = [*MODELS, Fields]
CHECKS = {model: check_of(model) for model in CHECKED}


def refused(connection: Any, pairs: Sequence[tuple[type[BaseModel], Any]]) -> list[str | None]:
    rows = [(CHECKS[model]["check"], value, CHECKS[model]["defs"]) for model, value in pairs]
    return [problem for (problem,) in connection.run(PROBLEMS, json.dumps(rows))]


def accepts(model: type[BaseModel], value: Any) -> bool:
    try:
        model.model_validate(json.loads(json.dumps(value)))
    except ValidationError:
        return False
    return True


def assert_agrees(connection: Any, pairs: Sequence[tuple[type[BaseModel], Any]]) -> None:
    wrong = [
        (str(model.model_fields), value, problem)
        for (model, value), problem in zip(pairs, refused(connection, pairs), strict=True)
        if problem is not None and accepts(model, value)
    ]
    assert wrong == []


@pytest.fixture
def connection(database_url: str) -> Iterator[Any]:
    database = Database(database_url)
    yield database.get()
    database.drop()


def test_what_sql_refuses_pydantic_refuses_too(connection: Any) -> None:
    pairs = [(model, {"v": value}) for model in MODELS for value in VALUES]
    assert_agrees(connection, pairs)
    # and most of what a class refuses is refused here already
    by_class = [pair for pair in pairs if not accepts(*pair)]
    in_sql = [problem for problem in refused(connection, by_class) if problem is not None]
    assert len(in_sql) > 0.65 * len(by_class)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON, min_size=5, max_size=12), fields=st.lists(FIELDS, max_size=5))
def test_any_json_that_sql_refuses_pydantic_refuses_too(connection: Any, values: list[Any], fields: list[Any]) -> None:
    pairs: list[tuple[type[BaseModel], Any]] = [(model, {"v": value}) for model in MODELS for value in values]
    assert_agrees(connection, [*pairs, *((Fields, value) for value in fields)])


class Report(Payload):
    page_rows: int
    since: date | None = None
    format: Literal["csv", "xlsx"] = "csv"
    lines: list[Line] = Field(default=[])


@task("report:export")
def report_export(payload: Report, ctx: TaskContext) -> None:
    pass


NO_TEXT = "a text is required, not a number"
HINT = (
    "Report has page_rows (an integer, required), since (a date as a text or null), format (one of csv, xlsx), "
    "lines (a list)."
)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({}, "page_rows: a value is required"),
        ({"page_rows": "secret"}, "page_rows: an integer is required, not a text without a digit"),
        ({"page_rows": 1.5}, "page_rows: an integer is required, not a fraction"),
        ({"page_rows": None}, "page_rows: an integer is required, not null"),
        ({"page_rows": [1]}, "page_rows: an integer is required, not a list"),
        ({"page_rows": 1, "since": []}, "since: a date as a text or null is required"),
        ({"page_rows": 1, "format": "secret"}, "format: one of csv, xlsx is required"),
        ({"page_rows": 1, "secret": 2}, "an unknown field; known are lines, since, format, page_rows"),
        ({"page_rows": 1, "lines": [{"sku": "a"}, {}]}, "lines.1.sku: a value is required"),
        ({"page_rows": 1, "lines": [{"sku": "a", "tags": ["secret", 1]}]}, f"lines.0.tags.1: {NO_TEXT}"),
        ({"page_rows": 1, "lines": {"secret": 1}}, "lines: a list is required, not an object"),
    ],
)  # fmt: skip
def test_an_enqueue_by_sql_says_which_field_is_wrong_and_shows_no_value(
    connection: Any, payload: dict[str, Any], problem: str
) -> None:
    register(connection, {"report:export": report_export})
    with pytest.raises(DatabaseError) as refusal:
        connection.run("select * from joblane.enqueue('report:export', $1::text::jsonb)", json.dumps(payload))
    said = refusal.value.args[0]
    assert (said["M"], said["H"], said["C"]) == (f"payload: {problem}", HINT, "22023")
    assert "secret" not in str(refusal.value)
    assert connection.run("select count(*) from joblane.tasks") == [[0]]
    connection.run("""select * from joblane.enqueue('report:export', '{"page_rows": "7", "since": "2030-01-31"}')""")
