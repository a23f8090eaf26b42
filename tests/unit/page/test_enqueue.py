"""The form that enqueues a task: its inputs by the schema, its refusals, and what it never shows."""

from __future__ import annotations

import html
import re
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, create_model
from starlette.testclient import TestClient

from joblane import Payload, Redacted
from joblane.errors import DuplicateTaskError, EnqueueError, PayloadError, TaskIdConflictError, UnreadablePayloadError
from joblane.inspector.views import ActionResult
from joblane.local.errors import ForbiddenError
from joblane.page.payload_fields import LEFT_OUT, FieldProblem, InputKind, fields_of, value_of
from joblane.record.row.states import State
from tests.builders.views import task_row, type_view
from tests.inspector import FakeInspector
from tests.unit.page.conftest import COOKIE, KEYS, SAME, Post, client_of

FORM = "019318f2-7f3a-7cc4-9d3e-1f6b2a4c5d6e"
SECRET = "s3cr3t-v4lue"
SCRIPT = "<script>alert(1)</script>"


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Card(BaseModel):
    holder: str
    number: Annotated[str, Redacted]


class Example(Payload):
    title: str
    note: Annotated[str, Field(max_length=5_000, description="For the reader.")] = ""
    pages: Annotated[int, Field(ge=1)] = 3
    share: float
    urgent: bool
    draft: bool = True
    colour: Colour | None = None
    mode: Literal["full", "partial"]
    size: Literal[1, 2]
    at: datetime
    day: date | None = None
    user: UUID | Annotated[str, Field(min_length=1)]
    label: str | None = "none"
    token: Annotated[str, Redacted]
    code: Annotated[int, Redacted] | None = None
    cards: list[Card] = Field(default_factory=list)
    tags: list[str]
    counts: dict[str, int] = Field(default_factory=dict)
    either: int | str


GIVEN = {
    "title": " Sums ",
    "note": "one\r\ntwo",
    "pages": " 7 ",
    "share": "0.5",
    "urgent": "false",
    "draft": "true",
    "colour": '"red"',
    "mode": '"full"',
    "size": "2",
    "at": "2030-01-31T12:00:00Z",
    "day": "",
    "user": "auth0|7",
    "label": "",
    "token": SECRET,
    "code": "",
    "cards": '[{"holder": "Ann", "number": "4111"}]',
    "tags": '["a", "b"]',
    "counts": "",
    "either": '"7"',
}
PAYLOAD = {
    "title": " Sums ",
    "note": "one\ntwo",
    "pages": 7,
    "share": 0.5,
    "urgent": False,
    "draft": True,
    "colour": "red",
    "mode": "full",
    "size": 2,
    "at": "2030-01-31T12:00:00Z",
    "user": "auth0|7",
    "label": None,
    "token": SECRET,
    "cards": [{"holder": "Ann", "number": "4111"}],
    "tags": ["a", "b"],
    "either": "7",
}


def named(values: dict[str, str]) -> dict[str, str]:
    return {f"payload:{name}": text for name, text in values.items()}


@pytest.fixture
def example(stub: FakeInspector) -> FakeInspector:
    stub.answers["types"] = (type_view(schema=Example.model_json_schema()),)
    stub.answers["enqueue"] = lambda type, payload, options, reason: ActionResult(  # noqa: A006
        options["task_id"], "enqueue", None, State.PENDING, new_id=options["task_id"]
    )
    return stub


@pytest.fixture
def send(post: Post, example: FakeInspector) -> Any:
    def sent(**changed: str) -> Any:
        fields = {**named(GIVEN), "type": "data:export", "form": FORM, **changed}
        return post("/enqueue/start", **fields)

    return sent


def inputs(text: str) -> dict[str, str]:
    """Name → the tag of each input."""
    return {
        found[2]: found[0] for found in re.finditer(r'<(input|select|textarea)\b[^>]*?\bname="([^"]*)"[^>]*>', text)
    }


def problem_of(text: str, name: str) -> str:
    """The problem that describes an input."""
    described = re.search(r'aria-describedby="(wrong-\S+)', inputs(text)[name])
    assert described is not None, name
    found = re.search(rf'id="{described[1]}">([^<]*)<', text)
    assert found is not None
    return html.unescape(found[1])


# --- Fields --------------------------------------------------------------------------------------------------------


def test_each_kind_of_field_has_its_input() -> None:
    found = {field.name: field for field in fields_of(Example.model_json_schema())}
    assert {name: field.kind for name, field in found.items()} == {
        "title": InputKind.TEXT,
        "note": InputKind.LINES,
        "pages": InputKind.INTEGER,
        "share": InputKind.NUMBER,
        "urgent": InputKind.CHOICE,
        "draft": InputKind.CHOICE,
        "colour": InputKind.CHOICE,
        "mode": InputKind.CHOICE,
        "size": InputKind.CHOICE,
        "at": InputKind.TIME,
        "day": InputKind.DATE,
        "user": InputKind.TEXT,
        "label": InputKind.TEXT,
        "token": InputKind.TEXT,
        "code": InputKind.INTEGER,
        "cards": InputKind.JSON,
        "tags": InputKind.JSON,
        "counts": InputKind.JSON,
        "either": InputKind.JSON,
    }
    assert {name for name, field in found.items() if field.masked} == {"token", "code"}
    assert {name for name, field in found.items() if field.secret} == {"token", "code", "cards"}
    assert {name for name, field in found.items() if field.nullable} == {"colour", "day", "label", "code"}
    assert found["colour"].choices == (('"red"', "red"), ('"blue"', "blue"))
    assert (found["pages"].default, found["draft"].default, found["label"].default) == ("3", "true", "none")


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"properties": 3},
        {"properties": {"a": True}},
        {"properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"$ref": "#/$defs/A"}}},
        {"properties": {"a": {"anyOf": 3, "enum": None, "type": ["string", "null"], "default": {"x": 1}}}},
    ],
)
def test_a_schema_of_any_shape_has_a_form(browser: TestClient, stub: FakeInspector, schema: dict[str, Any]) -> None:
    stub.answers["types"] = (type_view(schema=schema),)
    assert browser.get("/enqueue?type=data:export").status_code == 200


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("pages", "", LEFT_OUT),
        ("label", "", None),
        ("code", "", LEFT_OUT),
        ("pages", "1_0", "a whole number"),
        ("pages", "3.5", "a whole number"),
        ("share", "1e999", "a number is required"),
        ("share", "nan", "a number is required"),
        ("share", "12", 12),
        ("title", "", "a value is required"),
        ("title", "  ", "  "),
        ("urgent", "", "a value is required"),
        ("mode", "whole", "whole"),  # for the schema to refuse
        ("tags", "[1,", "not JSON: .* in line 1, column 4"),
        ("tags", "[" * 100_000, "nested too deeply"),
        ("tags", "[NaN]", "no NaN"),
        ("tags", "9" * 5_000, "too many digits"),
    ],
)
def test_a_text_becomes_a_value_or_a_problem_that_does_not_show_it(name: str, text: str, value: Any) -> None:
    [field] = [field for field in fields_of(Example.model_json_schema()) if field.name == name]
    if isinstance(value, str) and value != text:
        with pytest.raises(FieldProblem, match=value):
            value_of(field, text)
    else:
        assert value_of(field, text) == value


class Tree(BaseModel):
    branches: list[Tree] = Field(default_factory=list)
    left: Tree | None = None
    right: Tree | None = None


class Leaf(BaseModel):
    token: Annotated[str, Redacted] = SECRET


def nested(depth: int) -> type[BaseModel]:
    """A model with a redacted field inside of so many lists of models."""
    inner: type[BaseModel] = Leaf
    for n in range(depth):
        inner = create_model(f"Level{n}", inside=(list[inner], Field(default_factory=list)))  # type: ignore[valid-type]
    return inner


def test_a_redacted_field_is_found_in_any_depth() -> None:
    model = create_model("Deep", inside=(nested(12), nested(12)()), tree=(Tree | None, None))
    inside, tree = fields_of(model.model_json_schema())
    assert (inside.secret, inside.has_default, inside.default) == (True, True, None)
    assert not tree.secret


# --- The form ------------------------------------------------------------------------------------------------------


def test_types_lead_to_their_runs_and_to_the_form(browser: TestClient, example: FakeInspector) -> None:
    text = browser.get("/types").text
    assert 'href="/runs?type=data%3Aexport"' in text
    assert 'href="/enqueue?type=data%3Aexport"' in text
    assert "every day at 02:00 UTC" in text


def test_the_form_has_an_input_for_each_field_with_its_default(browser: TestClient, example: FakeInspector) -> None:
    text = browser.get("/enqueue?type=data:export").text
    found = inputs(text)
    assert {name for name in found if name.startswith("payload:")} == set(named(GIVEN))
    assert 'value="3"' in found["payload:pages"]
    assert 'type="password"' in found["payload:token"]
    assert " required" in found["payload:title"]
    assert " required" not in found["payload:label"]
    assert '<option value="true" selected>' in text  # of a draft
    assert "For the reader." in text


class Preset(Payload):
    street: Literal["Weg", "Stra\u00dfe"] = "Stra\u00dfe"
    lines: str = "\none"
    token: Annotated[str | None, Redacted] = SECRET


def test_a_form_that_is_sent_as_it_is_has_the_defaults(browser: TestClient, example: FakeInspector, post: Post) -> None:
    # given
    example.answers["types"] = (type_view(schema=Preset.model_json_schema()),)
    text = browser.get("/enqueue?type=data:export").text
    # then the choice of the default is selected, and the line break that HTML drops is not the text's
    [chosen] = re.findall(r'<option value="([^"]*)" selected>Stra\u00dfe<', text)
    assert re.search(r"<textarea[^>]*>\n\none</textarea>", text)
    # and an empty input is null, as the form says, also in place of a default that is not shown
    assert "Redacted: it is never shown. Empty: null." in text
    assert SECRET not in text
    # when
    post(
        "/enqueue/start", type="data:export", form=FORM, **named({"street": html.unescape(chosen), "lines": "\r\none"})
    )
    # then
    assert example.performed[0][2] == {"street": "Stra\u00dfe", "lines": "\none", "token": None}


def test_the_form_enqueues_with_payload_options_and_reason(send: Any, example: FakeInspector) -> None:
    # when
    answer = send(
        queue="low",
        tenant="acme",
        tags="nightly, by-hand",
        process_in="10 m",
        unique_for="1h",
        unique_key="k",
        on_conflict="return",
        max_retry="0",
        deadline="2030-01-31T12:00",
        reason="a test",
    )
    # then
    assert answer.status_code == 303
    [(name, type_, payload, options, reason)] = example.performed
    assert (name, type_, payload, reason) == ("enqueue", "data:export", PAYLOAD, "a test")
    assert options == {
        "task_id": FORM,
        "queue": "low",
        "tenant": "acme",
        "tags": ["nightly", "by-hand"],
        "process_in": 600.0,
        "unique_for": 3600.0,
        "unique_key": "k",
        "on_conflict": "return",
        "max_retry": 0,
        "deadline": "2030-01-31T12:00:00+00:00",
    }
    assert answer.headers["location"].startswith(f"/task?id={FORM}")


def test_refused_texts_are_shown_at_their_fields_and_nothing_is_enqueued(send: Any, example: FakeInspector) -> None:
    # when
    changed = named({"title": "", "pages": SCRIPT, "tags": "[", "urgent": ""})
    answer = send(**changed, process_in="soon", process_at="", max_retry="many", tenant="acme")
    # then
    assert answer.status_code == 422
    assert example.performed == []
    assert "Nothing was enqueued: 6 values are refused." in answer.text
    assert problem_of(answer.text, "payload:title") == "a value is required"
    assert problem_of(answer.text, "payload:pages") == "a whole number is required"
    assert problem_of(answer.text, "payload:tags").startswith("not JSON")
    assert "is not a duration" in problem_of(answer.text, "process_in")
    assert "a whole number from 0" in problem_of(answer.text, "max_retry")
    assert '<details id="more" open>' in answer.text
    # and the rest is kept
    assert 'value="acme"' in inputs(answer.text)["tenant"]
    assert 'value="0.5"' in inputs(answer.text)["payload:share"]
    assert f'value="{html.escape(SCRIPT)}"' in inputs(answer.text)["payload:pages"]
    assert f'value="{FORM}"' in inputs(answer.text)["form"]


@pytest.mark.parametrize(
    ("error", "name", "problem"),
    [
        (
            UnreadablePayloadError("payload: not a valid Example: pages: Input should be 1 or more; cards.0.holder: x"),
            "payload:pages",
            "Input should be 1 or more",
        ),
        (
            UnreadablePayloadError("payload: not a valid Example: cards.0.holder: is bad"),
            "payload:cards",
            "0.holder: is bad",
        ),
        (UnreadablePayloadError("payload: tags: none of title; pages"), "payload:tags", "none of title; pages"),
        (PayloadError("payload", "token: it is masked"), "payload:token", "it is masked"),
        (EnqueueError("tenant", "1 to 128 ASCII letters"), "tenant", "1 to 128 ASCII letters"),
        (
            DuplicateTaskError("other", "pending"),
            "unique_key",
            "held by task 'other', which is pending; nothing was enqueued",
        ),
    ],
)
def test_a_refusal_of_the_stage_is_shown_at_its_field(
    send: Any, example: FakeInspector, error: Exception, name: str, problem: str
) -> None:
    example.answers["enqueue"] = error
    answer = send(tenant="acme")
    assert answer.status_code == 422
    assert problem_of(answer.text, name) == problem
    assert 'value="acme"' in inputs(answer.text)["tenant"]


def test_a_refusal_of_the_whole_payload_is_shown_above_the_form(send: Any, example: FakeInspector) -> None:
    example.answers["enqueue"] = UnreadablePayloadError("payload: not a valid Example: Example: a; an unknown one")
    assert "Nothing was enqueued: a value is refused. Example: a; an unknown one." in send().text


@pytest.mark.parametrize("cause", ["text", "stage"])
def test_redacted_values_are_never_echoed(send: Any, example: FakeInspector, cause: str) -> None:
    # given
    card = f'[{{"holder": "Ann", "number": "{SECRET}"}}]'
    if cause == "stage":
        example.answers["enqueue"] = PayloadError("payload", "pages: too many")
    # when
    answer = send(**named({"cards": card, "code": "4711" + SECRET, "pages": "x" if cause == "text" else "3"}))
    # then
    assert answer.status_code == 422
    assert SECRET not in answer.text
    assert "4711" not in answer.text
    assert "Give redacted values again." in answer.text


def test_a_form_that_is_sent_twice_enqueues_one_task(browser: TestClient, send: Any, example: FakeInspector) -> None:
    # given
    first, second = (inputs(browser.get("/enqueue?type=data:export").text)["form"] for _ in range(2))
    assert first != second
    send()
    # when
    example.answers["enqueue"] = TaskIdConflictError(FORM)
    answer = send()
    # then
    assert answer.headers["location"].startswith(f"/task?id={FORM}")
    example.rows = [task_row(id=FORM)]
    assert "This form was sent before: this is its task." in browser.get(answer.headers["location"]).text


@pytest.mark.parametrize("form", ["", "x", "../"])
def test_a_form_without_an_id_enqueues_nothing(send: Any, example: FakeInspector, form: str) -> None:
    answer = send(form=form)
    assert (answer.status_code, example.performed) == (422, [])
    assert "the form has no id; load it again" in answer.text


def test_the_task_that_holds_the_key_is_shown_instead_of_a_new_one(
    send: Any, example: FakeInspector, browser: TestClient
) -> None:
    example.answers["enqueue"] = ActionResult("one", "enqueue", None, State.ACTIVE)
    answer = send(unique_for="1h", on_conflict="return")
    text = browser.get(answer.headers["location"]).text
    assert "This task holds the unique key, and is active." in text


def test_an_unknown_type_is_refused_with_the_list(browser: TestClient, post: Post, example: FakeInspector) -> None:
    for answer in (browser.get(f"/enqueue?type={SCRIPT}"), post("/enqueue/start", type="no:type", form=FORM)):
        assert answer.status_code == 400
        assert "Type: there is no task type" in answer.text
        assert SCRIPT not in answer.text
    assert example.performed == []


def test_who_may_only_view_cannot_enqueue(example: FakeInspector, browser: TestClient, send: Any) -> None:
    # given a stage that allows only queries
    refusal = ForbiddenError("POST /edit/enqueue of stage 'prod' is answered with 403.")
    example.answers["enqueue"] = refusal
    remote = client_of(example, readable=(ForbiddenError,))
    remote.cookies.update(COOKIE)
    fields = {"csrf": KEYS.form, "type": "data:export", "form": FORM, **named(GIVEN)}
    # then
    answer = remote.post("/enqueue/start", data=fields, headers=SAME)
    assert "POST /edit/enqueue" in answer.text
    assert SECRET not in answer.text
    # and a read-only page has neither the form nor its action
    reader = client_of(example, read_only=True)
    reader.cookies.update(COOKIE)
    assert "payload:title" not in reader.get("/enqueue?type=data:export").text
    assert "/enqueue?" not in reader.get("/types").text
    example.calls.clear()
    assert reader.post("/enqueue/start", data=fields, headers=SAME).status_code == 403
    assert example.performed == []
