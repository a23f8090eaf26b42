"""The declared types, and a form that enqueues a task of one."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any
from uuid import UUID

from starlette.requests import Request
from starlette.responses import Response

from joblane.enqueue.check import new_id
from joblane.errors import DuplicateTaskError, FieldError, TaskIdConflictError, UnreadablePayloadError
from joblane.inspector.durations import duration, moment
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.actions import note_of, soon
from joblane.inspector.views import ActionResult, TypeView
from joblane.page.cells import span
from joblane.page.filters import Form, form, whole
from joblane.page.payload_fields import LEFT_OUT, FieldProblem, PayloadField, fields_of, value_of
from joblane.page.rendering import page, redirect
from joblane.page.sorting import sorting
from joblane.tasks.job import OPTIONS
from joblane.tasks.option_facts import DURATION, MOMENT, NUMBER, TEXTS, Option, Values

PREFIX = "payload:"
"""Prefix of the names of the payload's inputs: options have names of their own."""
OFFERED = {name: option for name, option in OPTIONS.items() if option.flags and name != "task_id"}
"""The options of the form, which has an id of its own."""
FIRST = ("queue", "tenant", "tags", "process_in", "process_at")
"""The options above the fold."""


def types(request: Request, inspector: Inspector) -> Response:
    order = sorting(request, TypeView)
    return page(request, "types.html", types=order.of(inspector.types()), sorting=order)


def show(request: Request, inspector: Inspector) -> Response:
    """The empty form of a type."""
    declared = _declared(inspector, request.query_params.get("type", ""))
    return _form(request, declared, fields_of(declared.schema), Form({}), {})


def start(request: Request, inspector: Inspector) -> Response:
    """Enqueue; if a value is refused, show the form again with each problem at its field, without redacted values.

    The id of the task is in the form, so a form that is sent twice enqueues one task.
    """
    given = form(request)
    declared = _declared(inspector, given.text("type"))
    fields = fields_of(declared.schema)
    payload, problems = _payload(fields, given)
    options, wrong = _options(given)
    problems |= wrong
    if problems:
        return _form(request, declared, fields, given, problems)
    try:
        acted = inspector.enqueue(declared.type, payload, options=options, reason=given.reason)
    except TaskIdConflictError as error:
        return redirect(request, "/task", "This form was sent before: this is its task.", id=error.task_id)
    except (FieldError, UnreadablePayloadError) as error:
        holder = error.task_id if isinstance(error, DuplicateTaskError) else None
        return _form(request, declared, fields, given, _problems(error, fields), holder=holder)
    return redirect(request, "/task", _notice(acted), id=acted.id)


def _declared(inspector: Inspector, type_: str) -> TypeView:
    """The type as it is declared now: a page that runs for days would have the schema of an earlier deploy."""
    for declared in inspector.types():
        if declared.type == type_:
            return declared
    raise SelectionError("type", f"there is no task type {type_!r}; *Types* lists all")


def _form(
    request: Request,
    declared: TypeView,
    fields: tuple[PayloadField, ...],
    given: Form,
    problems: Mapping[str, str],
    *,
    holder: str | None = None,
) -> Response:
    """``given``, ``problems``: of a form that was refused. ``holder``: the task that holds the unique key."""
    texts = {field.name: _shown(field, given) for field in fields}
    return page(
        request,
        "enqueue.html",
        422 if problems else 200,
        declared=declared,
        fields=fields,
        texts=texts,
        given=given,
        problems=problems,
        first=[_input(name, declared) for name in FIRST],
        more=[_input(name, declared) for name in OFFERED if name not in FIRST],
        holder=holder,
        task_id=_task_id(given) or new_id(),
    )


def _input(name: str, declared: TypeView) -> dict[str, Any]:
    """The input of an option, for the template."""
    option = OPTIONS[name]
    choices = declared.queues if name == "queue" else option.values.choices
    maximum = ""
    if option.declared == "always":
        is_time = option.values is DURATION
        value = getattr(declared, f"{name}_seconds" if is_time else name)
        maximum = span(value) if is_time else str(value)
    return {
        "name": name,
        "label": option.label or name.replace("_", " ").capitalize(),
        "hint": option.example or maximum,
        "help": f"{option.help}: {maximum}." if maximum else f"{option.help}.",
        "choices": None if choices is None else tuple(choices),
    }


def _shown(field: PayloadField, given: Form) -> str:
    """The text of an input. A redacted value is never sent back to the browser."""
    if field.secret:
        return ""
    return next(iter(given.getlist(PREFIX + field.name)), field.default or "")


# --- Payload and options -------------------------------------------------------------------------------------------


def _payload(fields: tuple[PayloadField, ...], given: Form) -> tuple[dict[str, Any], dict[str, str]]:
    """The payload, and the problem of each field without a value, by the name of its input."""
    payload: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for field in fields:
        name = PREFIX + field.name
        try:
            value = value_of(field, next(iter(given.getlist(name)), ""))
        except FieldProblem as problem:
            problems[name] = str(problem)
        else:
            if value is not LEFT_OUT:
                payload[field.name] = value
    return payload, problems


def _seconds(text: str) -> float:
    return duration("".join(text.split()).lower()).total_seconds()


def _time(text: str) -> str:
    return moment(text).isoformat()


def _words(text: str) -> list[str]:
    return re.split(r"[\s,]+", text.strip(" ,"))


READ: Mapping[Values, Callable[[str, Option], Any]] = {
    DURATION: lambda text, _: _seconds(text),
    MOMENT: lambda text, _: _time(text),
    NUMBER: lambda text, option: whole("", text, option.low, option.high),
    TEXTS: lambda text, _: _words(text),
}
"""Values → the value of an option from a string that is not empty. Each raises ValueError. Others are the string."""


def _options(given: Form) -> tuple[dict[str, Any], dict[str, str]]:
    """The options of the enqueue, and the problem of each that cannot be read."""
    options: dict[str, Any] = {"task_id": _task_id(given)}
    problems: dict[str, str] = {}
    for name, option in OFFERED.items():
        if text := given.text(name):
            try:
                options[name] = READ[option.values](text, option) if option.values in READ else text
            except SelectionError as error:
                problems[name] = error.problem
            except ValueError as error:
                problems[name] = str(error)
    if "process_in" in options and "process_at" in options:
        problems["process_at"] = "give a delay or a time, not both"
    if options["task_id"] is None:
        problems["form"] = "the form has no id; load it again"
    return options, problems


def _task_id(given: Form) -> str | None:
    """The id that the form was made with, and that the task gets."""
    try:
        return str(UUID(given.text("form")))
    except ValueError:
        return None


def _problems(error: FieldError | UnreadablePayloadError, fields: tuple[PayloadField, ...]) -> dict[str, str]:
    """The problems of a refusal, by the names of the inputs; ``form`` for those of none."""
    if isinstance(error, FieldError) and error.field != "payload":
        return {error.field: error.problem} if error.field in (*OFFERED, "reason") else {"form": str(error)}
    names = {field.name for field in fields}
    found: dict[str, list[str]] = {}
    name = "form"
    for part in re.sub(r"^payload: (not a valid \w+: )?", "", str(error)).split("; "):
        path, colon, problem = part.partition(": ")
        first, _, rest = path.partition(".")
        text = part
        if colon and first in names:
            name, text = PREFIX + first, f"{rest}: {problem}" if rest else problem
        elif colon and re.fullmatch(r"[\w.]+", path):
            name = "form"
        found.setdefault(name, []).append(text)  # a part without a path continues the one before it
    return {name: "; ".join(parts) for name, parts in found.items()}


def _notice(acted: ActionResult) -> str:
    if acted.new_id is None:
        return f"This task holds the unique key, and is {acted.after}."
    return f"Enqueued: the task is {acted.after}. It {soon(acted.after)}. {note_of(acted)}".rstrip()
