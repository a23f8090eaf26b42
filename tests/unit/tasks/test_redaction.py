"""Redacted fields are masked wherever their names occur, and an edit restores the values that it left masked."""

from __future__ import annotations

import json
import sys
import typing
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, RootModel
from pydantic.dataclasses import dataclass as checked_dataclass
from typing_extensions import TypedDict

from joblane import Payload, Redacted, TaskContext, task
from joblane.errors import PayloadError
from joblane.tasks.redaction import MARK, MASK, masked, redacted_names, restored, shown_schema, unmarked

Secret = Annotated[str, Redacted]


class Card(BaseModel):
    number: Annotated[str, Redacted]
    holder: str


class Person(Payload):
    name: str
    card: Card | None = None
    cards: list[Card] = Field(default_factory=list)
    by_bank: dict[str, Card] = Field(default_factory=dict)
    pin: Annotated[int | None, Redacted] = None


class Pair(NamedTuple):
    user: str
    password: Secret


class Word(RootModel[Secret]):
    pass


class Typed(TypedDict, total=False):
    token: Secret


class TypedByPython(typing.TypedDict, total=False):
    token: Secret


@dataclass
class Plain:
    token: Secret


@checked_dataclass
class Checked:
    token: Annotated[str, Field(alias="tok"), Redacted]


class Cat(BaseModel):
    kind: Literal["cat"]
    chip: Secret


class Dog(BaseModel):
    kind: Literal["dog"]
    tag: str


class Node(BaseModel):
    secret: Secret
    children: list[Node] = Field(default_factory=list)


def test_a_whole_field_is_masked_and_null_stays_null() -> None:
    payload = {"name": "Ann", "pin": 1234, "card": None}
    assert masked(Person, payload) == {"name": "Ann", "pin": MASK, "card": None}
    assert masked(Person, payload | {"pin": None}) == payload | {"pin": None}
    assert payload["pin"] == 1234


def test_fields_of_nested_models_are_masked_in_lists_and_in_mappings() -> None:
    card = {"number": "4111", "holder": "Ann"}
    shown = {"number": MASK, "holder": "Ann"}
    payload = {"name": "Ann", "card": card, "cards": [card, card], "by_bank": {"acme": card}}
    assert masked(Person, payload) == {
        "name": "Ann",
        "card": shown,
        "cards": [shown, shown],
        "by_bank": {"acme": shown},
    }


def _model(**fields: Any) -> type[BaseModel]:
    return type("Made", (BaseModel,), {"__annotations__": fields, "__module__": __name__})


@pytest.mark.parametrize(
    ("annotation", "names"),
    [
        (Annotated[str, Redacted], {"field"}),
        (Annotated[str, Redacted()], {"field"}),
        (Annotated[str, Field(min_length=3), Redacted], {"field"}),
        (Secret | None, {"field"}),
        (int | Secret, {"field"}),
        (list[Secret], {"field"}),
        (dict[str, Secret], {"field"}),
        (dict[Secret, int], {"field"}),
        (tuple[int, Secret], {"field"}),
        (Pair, {"field"}),
        (list[Pair], {"field"}),
        (Word, {"field"}),
        (Typed, {"token"}),
        pytest.param(
            TypedByPython,
            {"token"},
            marks=pytest.mark.skipif(sys.version_info < (3, 12), reason="pydantic refuses it before Python 3.12"),
        ),
        (Plain, {"token"}),
        (list[Checked | None], {"token", "tok"}),
        (Annotated[Cat | Dog, Field(discriminator="kind")], {"chip"}),
        (Node, {"secret"}),
        (Annotated[Card, Redacted], {"field", "number"}),
        (str, set()),
    ],
)
def test_redacted_is_found_wherever_an_annotation_may_hold_it(annotation: Any, names: set[str]) -> None:
    assert redacted_names(_model(field=annotation)) == names


def test_a_field_is_masked_under_all_its_aliases() -> None:
    class Aliased(BaseModel):
        model_config = ConfigDict(validate_by_name=True)
        a: Annotated[str, Redacted, Field(alias="A")]
        b: Annotated[str, Redacted, Field(validation_alias=AliasChoices("B", AliasPath("deep", "b2")))]
        c: Annotated[str, Redacted, Field(serialization_alias="C")]

    payload = {"a": 1, "A": 1, "b": 1, "B": 1, "deep": {"b2": 1, "x": 2}, "c": 1, "C": 1, "d": 3}
    shown = masked(Aliased, payload)
    assert shown == dict.fromkeys("aAbBcC", MASK) | {"deep": {"b2": MASK, "x": 2}, "d": 3}


def test_a_field_is_masked_under_the_name_of_an_alias_generator() -> None:
    class Camel(BaseModel):
        model_config = ConfigDict(alias_generator=lambda name: name.title())
        token: Secret

    assert masked(Camel, {"Token": "x"}) == {"Token": MASK}


@pytest.mark.parametrize("payload", ["text", 7, None, True])
def test_a_payload_that_is_not_an_object_is_shown_unchanged(payload: Any) -> None:
    assert masked(Person, payload) == payload


def test_a_payload_of_another_schema_is_masked_by_field_names() -> None:
    # given: a payload of a newer schema, in which the card's number and the pin have moved
    payload = {"wallet": {"main": [{"number": "4111", "pin": 1}]}, "pin": {"old": 1, "new": 2}, "card": ["number"]}
    assert masked(Person, payload) == {
        "wallet": {"main": [{"number": MASK, "pin": MASK}]},
        "pin": MASK,
        "card": ["number"],
    }


def test_a_payload_without_redacted_fields_is_not_copied() -> None:
    payload = {"tag": "x"}
    assert masked(Dog, payload) is payload
    assert restored(Dog, payload, {}) is payload


# --- Edits ---------------------------------------------------------------------------------------------------------

STORED: dict[str, Any] = {
    "name": "Ann",
    "pin": 1234,
    "cards": [{"number": "one", "holder": "Ann"}, {"number": "two", "holder": "Bob"}],
    "by_bank": {"acme": {"number": "three", "holder": "Ann"}},
}


SHOWN = masked(Person, STORED)
FIRST, SECOND = SHOWN["cards"]
OTHER = {"acme": {"number": "new", "holder": MASK}}
"""The holder is not redacted: the mask is its new value."""


@pytest.mark.parametrize(
    ("edited", "kept"),
    [
        ({"name": "Eve"}, {"name": "Eve"}),
        ({"pin": 9, "by_bank": OTHER}, {"pin": 9, "by_bank": OTHER}),
        (
            {"cards": [FIRST, SECOND | {"holder": "Eve"}]},
            {"cards": [STORED["cards"][0], {"number": "two", "holder": "Eve"}]},
        ),
        ({"cards": [SECOND]}, {"cards": [STORED["cards"][1]]}),
        ({"cards": [SECOND, FIRST]}, {"cards": [*reversed(STORED["cards"])]}),
    ],
    ids=["another field", "new values in place of masks", "an edited item", "a removed item", "moved items"],
)
def test_masked_values_are_restored_and_edited_values_are_kept(edited: dict[str, Any], kept: dict[str, Any]) -> None:
    assert restored(Person, SHOWN | edited, STORED) == STORED | kept


@pytest.mark.parametrize(
    ("edited", "where"),
    [
        ({"pin": MASK}, "pin"),
        ({"cards": [{"number": MASK, "holder": "Zoe"}]}, r"0\.number"),
        ({"by_bank": {"other": {"number": MASK}}}, "number"),
        ({"card": {"number": MASK}}, "number"),
    ],
)
def test_a_mask_without_a_stored_value_is_refused_by_the_name_of_the_field(edited: dict[str, Any], where: str) -> None:
    with pytest.raises(PayloadError, match=rf"payload: {where}: it is masked, and the task has no value"):
        restored(Person, edited, STORED | {"pin": None})


# --- The schema ----------------------------------------------------------------------------------------------------


def test_the_schema_marks_redacted_fields() -> None:
    schema = Person.model_json_schema()
    assert schema["properties"]["pin"][MARK] is True
    assert schema["$defs"]["Card"]["properties"]["number"][MARK] is True
    assert MARK not in schema["properties"]["name"]


class Preset(Payload):
    token: Secret = "s3cret-1"
    pin: Annotated[int | None, Redacted] = Field(None, examples=["s3cret-2"])
    card: Card = Card(number="s3cret-3", holder="Ann")
    more: dict[str, Any] = Field({"token": "s3cret-4", "default": 1})
    default: Literal["number"] = "number"


def test_the_schema_that_is_shown_has_no_default_of_a_redacted_field() -> None:
    # when
    schema = Preset.model_json_schema()
    shown = shown_schema(Preset, schema)
    # then
    assert "s3cret" in json.dumps(schema)
    assert "s3cret" not in json.dumps(shown)
    defaults = {name: part.get("default") for name, part in shown["properties"].items()}
    assert defaults == {
        "token": MASK,
        "pin": None,
        "card": {"number": MASK, "holder": "Ann"},
        "more": {"token": MASK, "default": 1},
        "default": "number",
    }
    assert shown["$defs"] == schema["$defs"]
    assert shown_schema(Payload, schema) is schema


def test_redacting_a_field_does_not_change_the_schema_digest() -> None:
    def digest(annotation: Any) -> str:
        made = type("Work", (Payload,), {"__annotations__": {"x": annotation, "card": Dog}, "__module__": __name__})

        def some_work(payload: Any, ctx: TaskContext) -> None: ...

        some_work.__annotations__["payload"] = made
        return task("some:work")(some_work).schema_digest

    for plain, marked in (
        (str, Annotated[str, Redacted]),
        (str | None, Annotated[str | None, Redacted]),
        (str | None, Secret | None),
        (list[str], list[Secret]),
        (Dog, Annotated[Dog, Redacted]),
        (
            Annotated[str, Field(min_length=2, description="d")],
            Annotated[str, Field(min_length=2, description="d"), Redacted],
        ),
    ):
        assert digest(plain) == digest(marked), "messages in a queue would have another schema"
    assert digest(str) != digest(int)


def test_a_field_with_the_name_of_the_mark_stays_in_the_schema() -> None:
    assert unmarked({"properties": {MARK: {"type": "string", MARK: True}}}) == {
        "properties": {MARK: {"type": "string"}}
    }
