"""The generated parts of the reference: each function returns the Markdown between two marks of a page."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from enum import Enum
from functools import cache, partial
from importlib import import_module
from inspect import get_annotations
from typing import Any

import typer
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

import joblane
import joblane.cdk
from joblane import errors, testing
from joblane.cdk.app import JoblaneApp
from joblane.cdk.construct import JobDatabase, Joblane
from joblane.cdk.constructs.granted_bucket import GrantedBucket
from joblane.cdk.errors import RefusedTemplateError, StageError, SynthError
from joblane.cdk.settings.apis import Control, Monitoring, Oidc, PageSettings, Roles, Slack
from joblane.cdk.settings.database import Aurora, ExistingDatabase, Rds, Restored
from joblane.cdk.settings.events import Events, Webhook
from joblane.cdk.settings.images import Dockerfile
from joblane.cdk.settings.network import ExistingNetwork, NewNetwork
from joblane.cdk.settings.section import SecretReference
from joblane.cdk.settings.stage import Stage
from joblane.cli.exits import MEANINGS
from joblane.cli.main import COMMANDS, app
from joblane.client.async_batch import AsyncBatch
from joblane.client.batch import Batch
from joblane.client.client import JobClient
from joblane.client.limits import Limits
from joblane.client.message_client import MessageClient
from joblane.client.schedules import Schedules
from joblane.enqueue.result import Enqueued
from joblane.handler.context import TaskContext
from joblane.handler.resources import resource
from joblane.inspector import errors as inspector_errors
from joblane.inspector import views
from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of
from joblane.inspector.wire import ArgumentsError
from joblane.local import errors as local_errors
from joblane.names import Queue
from joblane.project import KEYS, Project, ProjectError
from joblane.record.flow.limit_status import LimitChange, LimitKind, LimitStatus, LimitValues
from joblane.record.migrations.comments import Described, described
from joblane.record.schedules import Origin, PutSchedule, StoredSchedule
from joblane.record.task.status import Progress, TaskStatus, TaskWait
from joblane.secret_values import SecretError
from joblane.settings import MissingSettingError
from joblane.sqs import message
from joblane.tasks.cron_text import MACROS
from joblane.tasks.declare import declare, handles
from joblane.tasks.decorator import task
from joblane.tasks.events import Event
from joblane.tasks.hooks import around, enqueueing
from joblane.tasks.job import OPTIONS, Job, OnParentDead
from joblane.tasks.limit import Limit, Rate
from joblane.tasks.listeners import on
from joblane.tasks.payload import ArchivedTask
from joblane.tasks.place import Lambda
from joblane.tasks.schedule import Missed, cron, every
from joblane.tasks.task import Grants
from joblane.tasks.unique import OnConflict, Until
from joblane.testing import (
    Captured,
    CrashedError,
    DeadLetter,
    DrainReport,
    EnqueuedTask,
    JobTester,
    KitError,
    NotRunError,
    Released,
    TaskReport,
)
from tests.reference.docstrings import (
    doc,
    duration,
    fields_of,
    markdown,
    shown_default,
    shown_type,
    split_range,
    table,
)

ERRORS: Mapping[str, Sequence[type[BaseException]]] = {
    "Wrong arguments": (errors.FieldError,),
    "Declaring and configuring": (
        errors.DeclarationError,
        errors.UnknownTypeError,
        errors.WrongStageError,
        errors.ForeignSchemaError,
        errors.ChangedSchemaError,
        MissingSettingError,
        SecretError,
        ProjectError,
    ),
    "Enqueueing, and reading a task's state": (
        errors.EnqueueError,
        errors.LaneError,
        errors.PayloadError,
        errors.TaskIdConflictError,
        errors.BatchIdConflictError,
        errors.DuplicateTaskError,
        errors.DepthError,
        errors.SendError,
        errors.UnknownTaskError,
        errors.WaitTimeoutError,
        errors.DatabaseUnavailableError,
        errors.LimitError,
        errors.ScheduleError,
        errors.DeclaredScheduleError,
        errors.UnknownScheduleError,
        errors.SignalError,
    ),
    "Outcomes that a handler raises": (
        errors.SkipRetry,
        errors.RevokeTask,
        errors.RetryAfter,
        errors.Snooze,
        errors.RateLimited,
    ),
    "Raised in a handler": (
        errors.Interrupt,
        errors.TaskTimeout,
        errors.TaskCancelled,
        errors.PartialFailure,
        errors.CursorError,
        errors.ItemKeyError,
        errors.StepError,
        errors.WaitExpired,
        errors.ChildFailed,
        errors.HookError,
        errors.LeaseLostError,
    ),
    "Reasons of dead letters": (errors.UnreadablePayloadError, errors.MessageError),
    "The Inspector": (
        inspector_errors.ActionError,
        inspector_errors.SelectionError,
        inspector_errors.UnknownBatchError,
        inspector_errors.UnknownBulkError,
        inspector_errors.RoleError,
        inspector_errors.BusyError,
        inspector_errors.DatabaseAsleepError,
        inspector_errors.SchemaError,
        inspector_errors.AwsCallError,
        ArgumentsError,
    ),
    "The CDK": (SynthError, StageError, RefusedTemplateError),
    "The local stack and the command line": (
        local_errors.LocalError,
        local_errors.UnavailableError,
        local_errors.MisuseError,
        local_errors.ForbiddenError,
        local_errors.PortBusyError,
    ),
    "The testing kit": (KitError, NotRunError, CrashedError),
}
"""Heading → the errors below it. A test compares them with all that the library defines."""
INSIDE = {
    *("AwsError", "Continued", "IssuerUnavailableError", "LoginError", "Killed", "_After", "ObservedError", "Refusal"),
    "NoStreamError",
    "SignInError",
    "Stopped",
    "UnreadPlanError",
}
"""Errors that no caller meets."""
INTERNAL = {"objects"}
"""Public methods for the library alone."""
CLIENT_METHODS = [name for name in vars(JobClient) if not name.startswith("_")]
SETTINGS: Mapping[str, type[BaseModel]] = {
    "stage": Stage,
    "aurora": Aurora,
    "rds": Rds,
    "restored": Restored,
    "existing-database": ExistingDatabase,
    "new-network": NewNetwork,
    "existing-network": ExistingNetwork,
    "control": Control,
    "page": PageSettings,
    "oidc": Oidc,
    "roles": Roles,
    "monitoring": Monitoring,
    "slack": Slack,
    "events": Events,
    "webhook": Webhook,
    "dockerfile": Dockerfile,
    "secret": SecretReference,
}
PUBLIC_CDK = (JoblaneApp, Joblane, JobDatabase, GrantedBucket, Stage)
IN_JSON = {"None": "null", "True": "true", "False": "false"}
NAMED_BY_KEY: Mapping[tuple[type, str], str] = {(Stage, "name"): "its key in `stages`"}
SHORT_TYPES = {
    "RetryDelay": "`timedelta` or list or function",
    "Task[Any, Any]": "task",
    "Task[P, Any]": "task",
    "Task[P, R]": "task",
    "P": "`Payload`",
    "Sequence[Kind]": "list of kinds",
    "Kind": "`str`",
    "AfterCommit": "function",
    "AsyncAfterCommit": "function",
    "AnySession": "`Session`, `scoped_session`",
    "AnyAsyncSession": "`AsyncSession`, `async_scoped_session`",
    "Unpack[JobOptions]": "enqueue options",
    "Unpack[MessageOptions]": "enqueue options",
    "Unpack[TickOptions]": "enqueue options",
    "Unpack[StageSettings]": "settings",
}


SEE = {
    "ArchivedTask": "task.md#archivedtask",
    "AsyncBatch": "enqueue.md#batches",
    "Batch": "enqueue.md#batches",
    "Enqueued": "enqueue.md#enqueued",
    "Event": "events.md#event",
    "Grants": "task.md#fields-of-grants",
    "Job": "enqueue.md#job",
    "JobClient": "enqueue.md",
    "MessageClient": "enqueue.md#messageclient",
    "JobError": "errors.md#joberror",
    "Keep": "enqueue.md#keep",
    "Lambda": "task.md#fields-of-lambda",
    "Limit": "task.md#fields-of-limit",
    "OnConflict": "enqueue.md#onconflict",
    "OnParentDead": "enqueue.md#onparentdead",
    "Payload": "task.md#payload",
    "Progress": "enqueue.md#progress",
    "Queue": "task.md#values-of-queue",
    "Rate": "task.md#fields-of-rate",
    "Redacted": "task.md#redacted",
    "State": "tables.md#states",
    "Task": "task.md",
    "TaskContext": "context.md",
    "TaskStatus": "enqueue.md#taskstatus",
    "TaskWait": "enqueue.md#taskwait",
    "Until": "enqueue.md#until",
    "declare": "task.md#declare",
    "handles": "task.md#handles",
    "cron": "schedules.md#cron",
    "every": "schedules.md#every",
    "on": "events.md#on",
    "around": "hooks.md#around",
    "enqueueing": "hooks.md#enqueueing",
    "resource": "hooks.md#resource",
    "task": "task.md",
}
"""Public name → where the reference has it; an error is where its name is."""


@cache
def links() -> Mapping[str, str]:
    """Name → where the reference has it."""
    found = {error.__name__: f"errors.md#{error.__name__.lower()}" for group in ERRORS.values() for error in group}
    found |= {name: f"enqueue.md#{name.lower()}" for name in ("LimitStatus", "PutSchedule", "StoredSchedule", "Missed")}
    found |= {"Origin": "enqueue.md#origin", "Limits": "enqueue.md#limits", "JobTester": "testing.md"}
    found |= {"Schedules": "enqueue.md#schedules-at-run-time", "Job": "enqueue.md#options"}
    found |= {f"JobClient.{name}": f"enqueue.md#{name}" for name in CLIENT_METHODS}
    return SEE | found | {"Joblane": "public-names.md#joblane", "JoblaneApp": "public-names.md#joblaneapp"}


def said(text: str) -> str:
    return markdown(text, links())


def kind_of(annotation: object) -> str:
    if isinstance(annotation, str) and (literal := re.fullmatch(r"Literal\[(.+)\]", annotation)):
        return " or ".join(f"`{value}`" for value in literal[1].replace("'", '"').split(", "))
    shown = shown_type(annotation)
    for name, words in SHORT_TYPES.items():
        shown = shown.replace(f"`{name}`", words)
    return shown


# --- Options, fields, methods --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Entry:
    """An option, with a heading of its own."""

    name: str
    kind: str
    default: str
    range: str
    text: str

    @property
    def facts(self) -> str:
        parts = (f"Type: {self.kind}.", f"Default: {self.default}.", f"Range: {self.range}." if self.range else "")
        return " ".join(part for part in parts if part)


def options(entries: Iterable[Entry]) -> str:
    """A table to find an option in, and a section for each."""
    entries = list(entries)
    head = table(
        ("option", "type", "default", "range"),
        [(f"[`{one.name}`](#{one.name})", one.kind, one.default, one.range) for one in entries],
    )
    return "\n\n".join([head, *(f"### `{one.name}`\n\n{one.facts}\n\n{said(one.text)}" for one in entries)])


def task_options() -> str:
    parameters, texts = inspect.signature(task).parameters, doc(task, "task").args
    return options(_entry(parameter, texts.get(name, "")) for name, parameter in parameters.items())


def _entry(parameter: inspect.Parameter, text: str) -> Entry:
    if not text:
        raise LookupError(f"{parameter.name} has no text under Args")
    text, range_ = split_range(text)
    required = parameter.default is inspect.Parameter.empty
    default = "required" if required else shown_default(parameter.default)
    if parameter.default is None and (number := re.search(r" None: (\d+)\.", text)):
        text, default = text.replace(number[0], ""), f"`{number[1]}`"
    return Entry(parameter.name, kind_of(parameter.annotation), default, range_, text)


def enqueue_options() -> str:
    texts, entries = fields_of(Job), []
    for one in dataclasses.fields(Job):
        if (option := OPTIONS.get(one.name)) is not None:
            default = one.default if one.default is not dataclasses.MISSING else {}
            range_ = option.range(f"the declared `{one.name}`" if option.declared == "always" else None)
            range_ = "; ".join(filter(None, (range_, f"at most {option.most:,}" if option.most else "")))
            text = texts[one.name]
            text += " A `MessageClient` refuses it." if option.needs_row else ""
            text += " A schedule refuses it." if option.not_of_ticks else ""
            entries.append(Entry(one.name, kind_of(one.type), shown_default(default), range_, text))
    return options(entries)


def fields(model: type, *, only: Iterable[str] | None = None) -> str:
    """A table of a class's fields, or of an enum's values."""
    texts = fields_of(model)
    if issubclass(model, Enum):
        return table(("value", "meaning"), [(f"`{model[name].value}`", said(text)) for name, text in texts.items()])
    kinds = {name: kind for base in model.__mro__ for name, kind in get_annotations(base).items()}
    names = [name for name in texts if name in (only or texts)]
    return table(("field", "type", "meaning"), [(f"`{n}`", kind_of(kinds[n]), said(texts[n])) for n in names])


def signature(function: Callable[..., Any], name: str) -> str:
    """``name(payload, *, session=None) → Enqueued``, as code."""
    shown, star = [], False
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*" * (parameter.kind is parameter.VAR_POSITIONAL)
        text = stars + parameter.name
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        given = parameter.default
        if given is not parameter.empty:
            text += f"={_given(given)}"
        shown.append(text)
    returned = inspect.signature(function).return_annotation
    managed = re.fullmatch(r"Iterator\[(.+)\]", str(returned)) if hasattr(function, "__wrapped__") else None
    if returned in (None, "None", inspect.Signature.empty):
        arrow = ""
    elif managed is not None:  # by @contextmanager
        arrow = f" → context manager of {managed[1]}"
    else:
        arrow = f" → {kind_of(returned).replace('`', '')}"
    return f"`{name}({', '.join(shown)}){arrow}`"


def _home(error: type) -> str:
    """The module from which users import an error."""
    return errors.__name__ if error.__module__.startswith(errors.__name__) else error.__module__


def _given(value: Any) -> str:
    if callable(value):
        return str(value.__name__)
    if isinstance(value, timedelta):
        return duration(value)
    return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else str(getattr(value, "value", value))


def members(model: type, *names: str, title: str = "", without: Iterable[str] = ()) -> str:
    """A section for each public method and property of a class, or for those of ``names``."""
    own = [name for name, member in vars(model).items() if _is_member(name, member)]
    found = names or [name for name in own if name not in get_annotations(model)]
    return "\n\n".join(
        _member(model, name, title) for name in found if name not in {*INTERNAL} - {*names} and name not in {*without}
    )


def _is_member(name: str, member: object) -> bool:
    kinds = (classmethod, staticmethod, property)
    return not name.startswith("_") and (
        inspect.isfunction(member) or isinstance(member, kinds) or hasattr(member, "attrname")
    )


def _member(model: type, name: str, title: str) -> str:
    member = inspect.getattr_static(model, name)
    heading = f"### `{title}{name}`"
    function = getattr(member, "fget", None) or getattr(member, "func", None)
    if function is not None:  # a property, plain or cached
        kind = kind_of(inspect.signature(function).return_annotation)
        return "\n\n".join(
            [heading, f"Property of type {kind}.", *map(said, doc(function, f"{model.__name__}.{name}").text)]
        )
    function = getattr(model, name)
    return "\n\n".join([heading, *callable_(function, f"{title}{name}")])


def callable_(function: Callable[..., Any], name: str) -> list[str]:
    """Signature, texts, arguments and errors of a function."""
    read = doc(function, name)
    parts = [signature(function, name), *map(said, read.text)]
    if read.args:
        parameters = inspect.signature(function).parameters
        missing = [one for one in parameters if one != "self" and one not in read.args]
        if missing:
            raise LookupError(f"{name}: {missing[0]} has no text under Args")
        rows = [(f"`{one}`", kind_of(parameters[one].annotation), said(text)) for one, text in read.args.items()]
        parts.append(table(("argument", "type", "meaning"), rows))
    if read.raises:
        raised = [(said(f":class:`{one}`"), said(text)) for one, text in read.raises.items()]
        parts.append(table(("raises", "when"), raised))
    return parts


def functions(*several: Callable[..., Any]) -> str:
    return "\n\n".join("\n\n".join([f"## `{one.__name__}`", *callable_(one, one.__name__)]) for one in several)


def class_and_fields(*models: type, level: str = "###") -> str:
    parts = []
    for model in models:
        parts += [f"{level} `{model.__name__}`", *map(said, doc(model, model.__name__).text), fields(model)]
    return "\n\n".join(parts)


# --- Errors --------------------------------------------------------------------------------------------------------


def error_tree() -> str:
    """The tree as a list, each below its base."""
    known: list[type[BaseException]] = [errors.JobError, *(error for group in ERRORS.values() for error in group)]

    def below(base: type[BaseException], depth: int) -> list[str]:
        lines = []
        for one in known:
            if one is not errors.JobError and next((b for b in one.__mro__[1:] if b in known), None) is base:
                lines += ["  " * depth + f"- {said(f':class:`{one.__name__}`')}", *below(one, depth + 1)]
        return lines

    alone = [one for one in known if not any(base in known for base in one.__mro__[1:]) and one is not errors.JobError]
    lines = ["- `JobError`", *below(errors.JobError, 1)]
    for one in alone:
        lines += [f"- {said(f':class:`{one.__name__}`')}, not a `JobError`", *below(one, 1)]
    return "\n".join(lines)


def _public_name(base: type) -> str:
    """The class, or its nearest public base."""
    return next(one.__name__ for one in base.__mro__ if not one.__name__.startswith("_"))


def error_sections() -> str:
    parts = ["## `JobError`", *map(said, doc(errors.JobError, "JobError").text)]
    for heading, group in ERRORS.items():
        parts.append(f"## {heading}")
        for error in group:
            bases = ", ".join(f"`{_public_name(base)}`" for base in error.__bases__)
            homes = [each.__name__ for each in (joblane, testing) if error.__name__ in each.__all__]
            public = f"`{homes[0] if homes else _home(error)}`"
            text = [f"### `{error.__name__}`", *map(said, doc(error, error.__name__).text)]
            parts += [*text, f"Import: {public}. Base: {bases}."]
            if own := {name: text for name, text in fields_of(error).items() if name in get_annotations(error)}:
                parts.append(table(("field", "meaning"), [(f"`{name}`", said(text)) for name, text in own.items()]))
    return "\n\n".join(parts)


# --- Settings ------------------------------------------------------------------------------------------------------


def settings(model: type[BaseModel]) -> str:
    """A table of the settings of one part of a stage."""
    texts = fields_of(model)
    rows = []
    for name, info in model.model_fields.items():
        default = "required" if info.is_required() else _setting_default(info)
        text = re.sub(r"\b(None|True|False)\b", lambda word: f"`{IN_JSON[word[0]]}`", said(texts[name]))
        rows.append((f"`{name}`", setting_kind(model, name), NAMED_BY_KEY.get((model, name), default), text))
    return table(("setting", "type", "default", "meaning"), rows)


def _setting_default(info: FieldInfo) -> str:
    value = info.get_default(call_default_factory=True)
    return "`null`" if value is None else f"`{json.dumps(value)}`" if not isinstance(value, tuple) else "`[]`"


def setting_kind(model: type[BaseModel], name: str) -> str:
    """A setting's JSON type with its bounds, in words."""
    if name in ("network", "database", "control", "monitoring"):
        return "object"
    schema = model.model_json_schema()
    return _json_kind(schema["properties"][name], schema.get("$defs", {}))


def _json_kind(schema: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return "object"
    if "anyOf" in schema:
        kinds = [_json_kind(one, definitions) for one in schema["anyOf"] if one.get("type") != "null"]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in schema:
        return "one of " + ", ".join(f"`{json.dumps(one)}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{json.dumps(schema['const'])}`"
    if schema["type"] == "object":
        inner = _json_kind(schema["additionalProperties"], definitions)
        return f"object: string → {inner}"
    if schema["type"] == "array":
        word, comma, bounds = _json_kind(schema["items"], definitions).partition(",")
        return f"list of {word}s{comma}{bounds}"
    word = {"integer": "whole number", "boolean": "true or false"}.get(schema["type"], schema["type"])
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return f"{word}, {low:,g} to {high:,g}"
    return f"{word}, {low:g} or more" if low is not None else word


def project_keys() -> str:
    texts = fields_of(Project)
    kinds = {"functions": "string", "code": "list of strings", "lock": "string", "migrations": "string"}
    defaults = {"functions": '`"functions"`', "code": "`[]`", "lock": "the library's own", "migrations": "none"}
    return table(
        ("key", "type", "default", "meaning"), [(f"`{k}`", kinds[k], defaults[k], said(texts[k])) for k in KEYS]
    )


# --- Command line --------------------------------------------------------------------------------------------------


def commands() -> str:
    """Every command under the heading that the help has for it."""
    group: Any = typer.main.get_command(app)
    parts = []
    unplaced = [name for name, command in group.commands.items() if command.rich_help_panel not in COMMANDS]
    assert unplaced == [], "a command needs a heading of the help"
    for heading, names in COMMANDS.items():
        parts.append(f"## {heading}")
        found = [name for name, command in group.commands.items() if command.rich_help_panel == heading]
        assert set(names) <= set(found), heading
        for name in found:
            command = group.commands[name]
            parts += _command(f"joblane {name}", command)
            for inner, below in getattr(command, "commands", {}).items():
                parts += _command(f"joblane {name} {inner}", below)
    return "\n\n".join(parts)


def _command(name: str, command: Any) -> list[str]:
    usage = " ".join([name, *command.collect_usage_pieces(typer.Context(command, info_name=name))])
    text = inspect.cleandoc(command.help or "").split("\b")[0].split("\f")[0]
    parts = [f"### `{name}`", *(" ".join(part.split()) for part in text.strip().split("\n\n") if part.strip())]
    return [*parts, f"```text\n{usage}\n```", *([parameters(command)] if _shown(command) else [])]


def _shown(command: Any) -> list[tuple[str, str]]:
    """Arguments and options as the help shows them: names, and the text."""
    context = typer.Context(command, info_name="joblane")
    hidden = ("help", "install_completion", "show_completion")
    records = [one.get_help_record(context) for one in command.params if one.name not in hidden]
    return [record for record in records if record is not None]


def parameters(command: Any) -> str:
    rows = [(f"`{names}`", " ".join(text.split())) for names, text in _shown(command)]
    return table(("argument or option", "meaning"), rows)


def global_options() -> str:
    return parameters(typer.main.get_command(app))


def exit_statuses() -> str:
    return table(("status", "meaning"), [(f"{code.value}", text) for code, text in MEANINGS.items()])


# --- Tables, messages, metrics -------------------------------------------------------------------------------------


def tables() -> str:
    parts = []
    for name, rows in columns().items():
        [own, *below] = rows
        parts += [f"### `{name}`", own.comment]
        parts.append(
            table(
                ("column", "type", "meaning"),
                [
                    (f"`{one.name.rpartition('.')[2]}`", f"`{column_type(one.definition)}`", one.comment)
                    for one in below
                ],
            )
        )
    return "\n\n".join(parts)


def columns() -> Mapping[str, Sequence[Described]]:
    """Table → itself and its columns, as the migration creates them."""
    migration = import_module("joblane.record.migrations.versions.0001_record")
    created = [text for text in vars(migration).values() if isinstance(text, str) and "\ncreate table " in text]
    return {found[0].name: found for found in map(described, created)}


def column_type(definition: str) -> str:
    """The type of a column's definition, and ``null`` if it can be null."""
    kind = re.split(r" (?:not null|primary key|default|check|generated|collate)\b", definition)[0]
    required = "not null" in definition or "primary key" in definition
    return kind.replace("float8", "double precision") + ("" if required else " null")


def message_fields() -> str:
    schema = TypeAdapter(message.Message).json_schema()
    return _message_table(schema["properties"], "", schema.get("required", []))


def message_options() -> str:
    schema = TypeAdapter(message.Message).json_schema()
    return _message_table(schema["$defs"]["Options"]["properties"], "options.", [])


def _message_table(properties: Mapping[str, Any], prefix: str, required: Sequence[str]) -> str:
    rows = [
        (f"`{name}`", _wire_kind(one), "yes" if name in required else "no", message.MUST[f"{prefix}{name}"])
        for name, one in properties.items()
    ]
    return table(
        ("field", "JSON type", "required", "value"), [(*row[:3], row[3].removeprefix("must be ")) for row in rows]
    )


def _wire_kind(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_wire_kind(one) for one in schema["anyOf"] if one.get("type") != "null"))
    return "number" if "const" in schema else str(schema.get("type", "object"))


def message_attributes() -> str:
    rows = [
        (
            f"`{message.DEAD_ATTRIBUTE}`",
            "Number",
            "The task's redrive count (`generation`) when it was archived; 0 for a message that was refused.",
        ),
        (
            f"`{message.REASON_ATTRIBUTE}`",
            "String",
            "The reason why the task was archived or the message was refused.",
        ),
    ]
    return table(("attribute", "SQS type", "meaning"), rows)


# --- The Inspector, the kit, public names --------------------------------------------------------------------------


def operations(permission: Permission) -> str:
    found = [name for name in vars(Inspector) if permission_of(Inspector, name) is permission]
    return members(Inspector, *found)


def answers() -> str:
    """The classes of the Inspector's answers, with their fields."""
    parts = []
    found = [getattr(views, name) for name in views.__all__]
    models = [each for each in found if isinstance(each, type) and each.__module__.startswith(views.__name__)]
    for model in sorted(models, key=lambda each: each.__module__):
        parts += [f"### `{model.__name__}`", *map(said, doc(model, model.__name__).text)]
        if issubclass(model, Enum):
            parts.append(f"Values: {values(model)}.")
        else:
            parts.append("Fields: " + ", ".join(f"`{one}`" for one in get_annotations(model)) + ".")
    return "\n\n".join(parts)


def values(model: type[Enum]) -> str:
    return ", ".join(f"`{member.value}`" for member in model)


def public_names() -> str:
    return table(
        ("name", "", "see"),
        [(f"`{name}`", _first(getattr(joblane, name), name), _see(name)) for name in joblane.__all__],
    )


def public_testing() -> str:
    return table(
        ("name", "", "see"),
        [
            (f"`{name}`", _first(getattr(testing, name), name), f"[testing](testing.md#{name.lower()})")
            if not issubclass(getattr(testing, name), BaseException)
            else (f"`{name}`", _first(getattr(testing, name), name), f"[errors](errors.md#{name.lower()})")
            for name in testing.__all__
        ],
    )


def _first(what: Any, name: str) -> str:
    """The first sentence."""
    return said(doc(what, name).text[0]).partition(". ")[0].rstrip(".") + "."


def _see(name: str) -> str:
    target = SEE.get(name) or f"errors.md#{name.lower()}"
    return f"[{target.partition('.')[0]}]({target})"


def macros() -> str:
    return table(("macro", "stands for"), [(f"`{name}`", f"`{text}`") for name, text in MACROS.items()])


def cdk_classes() -> str:
    parts = []
    for model in PUBLIC_CDK[:-1]:
        parts += [f"### `{model.__name__}`", f"Import: `{model.__module__}`."]
        parts += list(map(said, doc(model, model.__name__).text))
        if dataclasses.is_dataclass(model) and model is not JobDatabase:
            parts.append(fields(model))
        elif model is Joblane:
            parts += callable_(Joblane.__init__, "Joblane")[1:]
        parts.append(members(model, title=f"{model.__name__}.").replace("### ", "#### "))
    return "\n\n".join(part for part in parts if part)


PAGES: Mapping[str, Mapping[str, Callable[[], str]]] = {
    "task": {
        "options": task_options,
        "grants": partial(fields, Grants),
        "place": partial(fields, Lambda),
        "limit": partial(fields, Limit),
        "rate": partial(fields, Rate),
        "archived": partial(fields, ArchivedTask),
        "apart": partial(functions, declare, handles),
        "queue": partial(fields, Queue),
    },
    "schedules": {"functions": partial(functions, cron, every), "macros": macros},
    "hooks": {"hooks": partial(functions, around, enqueueing, resource)},
    "events": {"event": partial(class_and_fields, Event), "listeners": partial(functions, on)},
    "enqueue": {
        "client": lambda: "\n\n".join(map(said, doc(JobClient, "JobClient").text)),
        "methods": partial(members, JobClient),
        "messages": lambda: "\n\n".join(
            [*map(said, doc(MessageClient, "MessageClient").text), members(MessageClient, title="sender.")]
        ),
        "batches": lambda: "\n\n".join(
            part
            for each, title in ((Batch, "batch."), (AsyncBatch, "await batch."))
            for part in [*map(said, doc(each, each.__name__).text), members(each, title=title)]
        ),
        "limits": partial(members, Limits, title="limits."),
        "limit_classes": partial(class_and_fields, LimitStatus, LimitValues, LimitChange, LimitKind),
        "schedules": lambda: "\n\n".join(
            [*map(said, doc(Schedules, "Schedules").text), members(Schedules, title="schedules.")]
        ),
        "schedule_classes": partial(class_and_fields, PutSchedule, StoredSchedule, Missed, Origin),
        "options": enqueue_options,
        "classes": partial(class_and_fields, Enqueued, TaskStatus, TaskWait, Progress, OnConflict, Until, OnParentDead),
    },
    "context": {"attributes": partial(fields, TaskContext), "methods": partial(members, TaskContext)},
    "errors": {"tree": error_tree, "errors": error_sections},
    "settings": {name: partial(settings, model) for name, model in SETTINGS.items()},
    "project": {"keys": project_keys},
    "command-line": {"options": global_options, "commands": commands, "statuses": exit_statuses},
    "tables": {"tables": tables},
    "message": {"fields": message_fields, "options": message_options, "attributes": message_attributes},
    "testing": {
        "attributes": partial(fields, JobTester),
        "tester": partial(members, JobTester),
        "classes": partial(class_and_fields, TaskReport, Released, EnqueuedTask, DeadLetter),
        "report": partial(members, DrainReport, title="DrainReport."),
        "captured": partial(members, Captured, title="Captured.", without=("close",)),
    },
    "inspector": {
        **{permission.value: partial(operations, permission) for permission in Permission},
        "filter": partial(fields, Filter),
        "actions": partial(values, BulkAction),
        "scopes": partial(values, PauseScope),
        "answers": answers,
    },
    "public-names": {"joblane": public_names, "testing": public_testing, "cdk": cdk_classes},
}
"""Page → mark → its text. ``environment``, ``metrics-and-logs`` and ``limits`` are written by hand, and tested."""
