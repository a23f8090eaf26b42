"""The limits of the stage: their values, the tasks that run and wait, the order of a key, and changes."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from joblane.errors import FieldError
from joblane.inspector.durations import starts
from joblane.inspector.errors import SelectionError
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.limits import in_force_line
from joblane.page.filters import Form, age, form, parsed, whole
from joblane.page.inspectors import desk
from joblane.page.rendering import page, query, redirect
from joblane.page.sorting import sorting
from joblane.page.views.stage import last_entry
from joblane.record.flow.limit_changes import target_of
from joblane.record.flow.limit_status import MOST_COUNTED, LimitKind, LimitStatus
from joblane.tasks.limit import MAX_AT_A_TIME, MAX_BURST, Rate

NUMBERS: Mapping[LimitKind, str] = {
    LimitKind.SHARED: "total",
    LimitKind.TOTAL: "max_total",
    LimitKind.EACH_KEY: "max_per_key",
    LimitKind.KEY: "max_per_key",
}
"""Kind of a limit → the field with its number of tasks at a time."""
FIELDS = {"until": "for"}
"""Argument of the inspector → field of the form."""
COUNTS = {"most_counted": MOST_COUNTED}
LINE_SHOWN = 50
NEVER = datetime.max.replace(tzinfo=UTC)


def list_all(request: Request, inspector: Inspector) -> Response:
    """All limits. Those that hold tasks or that operators have changed are first, unless a column is chosen."""
    order = sorting(request, LimitStatus)
    found = sorted(inspector.limits(), key=lambda one: not (one.held or one.own_change))
    return page(request, "limits.html", limits=order.of(found), sorting=order, **COUNTS)


def show(request: Request, inspector: Inspector) -> Response:
    """A shared limit, the limits of a type with the keys that wait longest, or the limit of a key with its order."""
    given = request.query_params
    return _show(request, inspector, given.get("name", ""), given.get("key") or None)


def _show(
    request: Request,
    inspector: Inspector,
    name: str,
    key: str | None,
    status: int = 200,
    *,
    given: Form | None = None,
    wrong: FieldError | None = None,
) -> Response:
    """The page of a limit. ``given``, ``wrong``: of a form that was refused."""
    found = inspector.limits(name, key=key)
    own = [one for one in found if key is not None or one.kind is not LimitKind.KEY]
    is_ordered = any(one.type == name and one.ordered for one in desk(request).types(inspector))
    return page(
        request,
        "limit.html",
        status,
        here=f"/limits/show?{query(name=name, key=key)}",
        name=name,
        key=key,
        own=own,
        keys=sorted((one for one in found if one not in own), key=lambda one: one.oldest_held_at or NEVER),
        numbers=[(NUMBERS[one.kind], one) for one in own],
        has_keys=key is None and any(one.kind is LimitKind.EACH_KEY for one in own),
        line=inspector.line(name, key, limit=LINE_SHOWN) if is_ordered and key is not None else None,
        given=given or Form({}),
        wrong=wrong,
        **COUNTS,
    )


def set_values(request: Request, inspector: Inspector) -> Response:
    """Set values; if one is refused, show the form again with the problem at its field."""
    given = form(request)
    name, key = _target(given)
    try:
        changed = inspector.set_limit(name, key=key, **_values(given), reason=given.required_reason)
    except FieldError as error:
        wrong = SelectionError(FIELDS.get(error.field, error.field), error.problem)
        return _show(request, inspector, name, key, 400, given=given, wrong=wrong)
    undo = last_entry(inspector, target_of(name, key))
    return redirect(request, "/limits/show", f"Set. {in_force_line(changed)}", undo=undo, name=name, key=key)


def reset(request: Request, inspector: Inspector) -> Response:
    given = form(request)
    name, key = _target(given)
    changed = inspector.reset_limit(name, key=key, reason=given.required_reason)
    notice = f"Reset. {in_force_line(changed)}"
    undo = last_entry(inspector, target_of(name, key))
    if not any(one.is_declared for one in changed):  # it has no page any more
        return redirect(request, "/limits", notice, undo=undo)
    return redirect(request, "/limits/show", notice, undo=undo, name=name, key=key)


def let_pass(request: Request, inspector: Inspector) -> Response:
    """Let the next task of an ordered key run before the first one, if that is still the one on the page."""
    given = form(request)
    name, key = _target(given)
    first = given.text("first") or None
    passed = inspector.pass_line(name, key or "", first=first, reason=given.required_reason)
    return redirect(request, "/limits/show", f"Task {passed.id}: {passed.note}.", name=name, key=key)


def _target(given: Form) -> tuple[str, str | None]:
    """The name, and the key with all its spaces."""
    return given.text("name"), next(iter(given.getlist("key")), "") or None


def _values(given: Form) -> dict[str, Any]:
    """The arguments of the inspector. Raises :class:`SelectionError`, which names the field."""
    numbers = {name: given.text(name) for name in dict.fromkeys(NUMBERS.values())}
    rate, burst, lasting = given.text("rate"), given.text("burst"), given.text("for")
    if burst and not rate:
        raise SelectionError("burst", "give the rate too")
    saved = whole("burst", burst, 1, MAX_BURST) if burst else 1
    return {
        **{name: whole(name, text, 0, MAX_AT_A_TIME) if text else None for name, text in numbers.items()},
        "rate": Rate(*parsed(starts, "rate", rate), saved) if rate else None,
        "until": datetime.now(UTC) + age("for", lasting) if lasting else None,
    }
