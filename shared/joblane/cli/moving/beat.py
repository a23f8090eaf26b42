"""The schedules of `celery beat` in Joblane's form."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from joblane.cli.moving.application import (
    UNSET,
    Application,
    CeleryTask,
    Source,
    elements,
    field_of,
    items,
    keywords_of,
    literal,
)
from joblane.errors import DeclarationError
from joblane.tasks.schedule import MAX_NAME, cron, every

FIELDS = ("minute", "hour", "day_of_month", "month_of_year", "day_of_week")
NO_LITERAL = "it is not written out as literals"


@dataclass(frozen=True)
class Entry:
    """An entry of the schedule. ``args`` and ``kwargs``: None if they are not written out."""

    source: Source
    where: ast.expr
    task: CeleryTask | None
    when: ast.expr | None
    name: str
    args: list[ast.expr] | None
    kwargs: Mapping[str, ast.expr] | None


def move_schedules(app: Application) -> None:
    """Give each task its schedules; list the others."""
    for entry in _entries(app):
        try:
            if entry.task is None:
                raise DeclarationError("it names no task that was read")
            options = {"timezone": app.setting("timezone") or "UTC", "payload": _payload(entry.task, entry)}
            name = re.sub(r"[^a-z0-9]+", "-", entry.name.lower()).strip("-")
            options["name"] = name if len(name) <= MAX_NAME else ""
            kept = {key: value for key, value in options.items() if value and value != "UTC"}
            entry.task.schedules.append(_schedule(entry.source, entry.when, kept))
        except DeclarationError as error:
            entry.source.add("by hand", entry.when or entry.where, f"a schedule is not moved: {error}")


def _entries(app: Application) -> Iterator[Entry]:
    """Yield the entries of ``beat_schedule``, and of ``add_periodic_task``."""
    for setting, source, value in app.settings:
        for name, entry in ((items(value) or {"": value}) if setting == "beat_schedule" else {}).items():
            parts = items(entry) or {}
            task, args, kwargs = app.named(literal(parts.get("task"))), parts.get("args"), parts.get("kwargs")
            yield Entry(source, entry, task, parts.get("schedule"), name, elements(args), items(kwargs))
            if "options" in parts:
                source.add("by hand", parts["options"], "options of a schedule: write them into the task's declaration")
    for source in app.sources.values():
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_periodic_task":
                name = str(literal(keywords_of(node).get("name")) or "")
                match node.args:
                    case [when, ast.Call(func=ast.Attribute(target, "s" | "si")) as call]:
                        task = app.tasks.get(app.resolve(source, target))
                        yield Entry(source, node, task, when, name, call.args, keywords_of(call))
                    case _:
                        yield Entry(source, node, None, None, name, None, None)


def _payload(task: CeleryTask, entry: Entry) -> dict[str, Any]:
    bound = None if entry.args is None or entry.kwargs is None else task.bind(entry.args, entry.kwargs)
    payload = {name: literal(value) for name, value in (bound or {}).items()}
    if bound is None or UNSET in payload.values():
        raise DeclarationError(f"its arguments: {NO_LITERAL}")
    for arg in task.parameters:
        if field_of(arg.arg) not in payload and arg.arg not in task.defaults:
            raise DeclarationError(f"it has no value for {arg.arg!r}")
    return payload


def _schedule(source: Source, when: ast.expr | None, options: dict[str, Any]) -> str:
    """Return the call that declares a schedule. Raises :class:`DeclarationError` if Joblane has none like it."""
    shown = "".join(f", {name}={value!r}" for name, value in options.items())
    if isinstance(when, ast.Call) and (kind := source.dotted(when.func)).startswith("celery.schedules."):
        if kind != "celery.schedules.crontab":
            raise DeclarationError(f"there is no {kind.rpartition('.')[2]}")
        text = _cron_text(when)
        cron(text, **options)
        return f"cron({text!r}{shown})"
    minutes = _minutes(source, when)
    hours, minutes = (minutes // 60, 0) if minutes % 60 == 0 else (0, minutes)
    every(hours=hours, minutes=minutes, **options)
    return f"every({f'hours={hours}' if hours else f'minutes={minutes}'}{shown})"


def _cron_text(call: ast.Call) -> str:
    """Return five fields. Celery's order of positional fields differs between versions after the second."""
    given = dict(zip(FIELDS, call.args, strict=False)) | keywords_of(call)
    if len(call.args) > 2 or given.keys() - set(FIELDS):
        raise DeclarationError("name the fields of crontab(…), and use no others")
    fields = {name: _field(literal(given[name])) if name in given else "*" for name in FIELDS}
    if fields["day_of_month"] != "*" and fields["day_of_week"] != "*":
        raise DeclarationError("Celery runs it if both days match, Joblane if one of them does; check it in the task")
    return " ".join(fields.values())


def _field(value: Any) -> str:
    if not isinstance(value, (int, str, list, tuple, set)):
        raise DeclarationError(NO_LITERAL)
    text = str(value) if isinstance(value, (int, str)) else ",".join(map(str, sorted(value)))
    return re.sub(r"[A-Za-z]{3,}", lambda day: day[0][:3].upper(), text.replace(" ", ""))


def _minutes(source: Source, when: ast.expr | None) -> int:
    seconds = literal(when)
    if isinstance(when, ast.Call) and source.dotted(when.func) == "datetime.timedelta" and not when.args:
        parts = {name: literal(value) for name, value in keywords_of(when).items()}
        if UNSET not in parts.values():
            seconds = timedelta(**parts).total_seconds()
    if not isinstance(seconds, (int, float)):
        raise DeclarationError(NO_LITERAL)
    if seconds < 60 or seconds % 60:
        raise DeclarationError(f"an interval of {seconds:g} seconds; the shortest is a minute, in whole minutes")
    return int(seconds // 60)
