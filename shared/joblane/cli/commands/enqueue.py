"""Tasks by hand: `enqueue`, `invoke`, `replay`, `edit`.

In these commands `--json` is the payload. For an answer as JSON they have `--as-json`, as other commands do.
"""

from __future__ import annotations

import json
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joblane.cli import completion, filters, target, terminal
from joblane.cli.commands import options as o
from joblane.cli.exits import Exit
from joblane.inspector.shell import argument
from joblane.names import Queue

if TYPE_CHECKING:
    from joblane.inspector.views import ActionResult

Payload = Annotated[
    str | None,
    typer.Option("--json", metavar="JSON|@FILE|-", help="The payload as JSON, from a file, or from the input."),
]
AsJson = Annotated[bool, typer.Option("--as-json", help="Print the answer as one JSON document.")]
MAX_BYTES = 64 * 1024 * 1024
"""Size of a payload from the input: far above the limit of a task, and small enough for the memory."""


def enqueue(
    context: typer.Context,
    type_: o.Type,
    *,
    payload: Payload = None,
    queue: Annotated[
        str | None,
        typer.Option(
            "--queue",
            "-q",
            metavar="QUEUE",
            help="Queue in which the type has a lane.",
            autocompletion=completion.queues,
        ),
    ] = None,
    process_in: Annotated[
        str | None,
        typer.Option("--in", metavar="DURATION", help="Wait before the first run, for example 10m, 2h or 3d."),
    ] = None,
    process_at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Run at this time (ISO 8601).")] = None,
    deadline: Annotated[
        str | None, typer.Option(metavar="TIME", help="Archive the task at this time, unless it has ended.")
    ] = None,
    task_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", help="Id of the task. A second use is refused.")
    ] = None,
    tenant: Annotated[
        str | None, typer.Option(metavar="TENANT", help="Tenant, for fair queues and for filters.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="TAG", help="Tag, for filters. You can repeat the option.")
    ] = None,
    max_retry: Annotated[
        int | None, typer.Option(metavar="N", min=0, help="Number of retries, at most the declared number.")
    ] = None,
    timeout: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Time for one attempt, at most the declared timeout.")
    ] = None,
    retention: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Time to keep the ended task, for example 7d.")
    ] = None,
    unique_for: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Longest time to hold the unique key, for example 1h.")
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option(metavar="KEY", help="Unique key. Default: from queue and payload.")
    ] = None,
    on_conflict: Annotated[
        str | None, typer.Option(metavar="ACTION", help="If the key is held: raise, return or replace.")
    ] = None,
    reason: o.Reason = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; the exit status is that of `wait`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Enqueue a task. Its payload is checked before anything is written."""
    from joblane.tasks.unique import OnConflict

    given = {
        "queue": None if queue is None else filters.one_of(Queue, queue, "--queue"),
        "process_in": _seconds(process_in, "--in"),
        "process_at": _time(process_at, "--at"),
        "deadline": _time(deadline, "--deadline"),
        "task_id": task_id,
        "tenant": tenant,
        "tags": list(tag) if tag else None,
        "max_retry": max_retry,
        "timeout": _seconds(timeout, "--timeout"),
        "retention": _seconds(retention, "--retention"),
        "unique_for": _seconds(unique_for, "--unique-for"),
        "unique_key": unique_key,
        "on_conflict": None if on_conflict is None else filters.one_of(OnConflict, on_conflict, "--on-conflict"),
    }
    if process_in is not None and process_at is not None:
        terminal.usage("give --in or --at, not both", "--at")
    options = {name: value for name, value in given.items() if value is not None}
    given_payload = read_payload(payload) or {}
    inspector = target.inspector(context)
    acted = inspector.enqueue(type_, given_payload, options=options, reason=reason)
    id_ = acted.new_id or acted.id
    if wait:
        from joblane.cli.commands.tasks import await_end

        if not as_json:
            _print(id_)
        raise typer.Exit(await_end(inspector, target.command(context), id_, None, as_json=as_json))
    terminal.answer(acted, as_json=as_json)
    _print(id_)
    terminal.say(f"Enqueued as {acted.after}.  Follow it:  {target.command(context)} wait {argument(id_)}")


def invoke(
    context: typer.Context,
    type_: o.Type,
    payload: Payload = None,
    tenant: Annotated[str | None, typer.Option(metavar="TENANT", help="Tenant of the task.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one handler here, on the local database.

    The handler runs in this process, for example under a debugger. Nothing goes through a queue, and the
    timeout is not enforced. A failed run is rolled back and is not retried.
    """
    from joblane.cli import invoke as invoking

    where = target.of(context)
    if where.stage is not None:
        terminal.usage(f"invoke runs on this machine and its local database, not on stage {where.stage}", "--stage")
    filters.type_of(type_)
    if tenant is not None:
        filters.name_of(tenant, "--tenant")
    given = read_payload(payload) or {}
    # this loads the settings of the local stack, and fails if the database lacks the tables
    target.inspector(context).pauses()
    with redirect_stdout(sys.stderr) if as_json else nullcontext():  # output of the handler would spoil the document
        ended = invoking.invoke(type_, given, tenant=tenant)
    if as_json:
        terminal.document(ended)
    elif ended.result is not None:
        _print(terminal.pretty(ended.result))
    if ended.traceback:
        terminal.say(ended.traceback.rstrip())
    terminal.say(ended.sentence)
    if ended.outcome != "completed":
        raise typer.Exit(Exit.FAILED)


def replay(
    context: typer.Context, id_: o.Id, payload: Payload = None, reason: o.Reason = None, as_json: AsJson = False
) -> None:
    """Enqueue a copy of an existing task.

    The copy is a new task with a link to the existing task. `--json` gives the copy another payload.
    """
    inspector = target.inspector(context)
    if payload is None:
        acted = inspector.replay(id_, reason=reason)
    else:
        acted = inspector.replay_with(id_, read_payload(payload) or {}, reason=reason)
    _report(acted, f"is a replay of {id_}", as_json=as_json)


def edit(
    context: typer.Context, id_: o.Id, payload: Payload = None, reason: o.Reason = None, as_json: AsJson = False
) -> None:
    """Change the payload of a waiting or archived task.

    Give it by `--json`, or change it in $EDITOR. A field shown as [redacted] keeps its value if left unchanged.
    """
    changed = read_payload(payload)
    inspector = target.inspector(context)
    if changed is not None:
        _report(inspector.edit(id_, changed, reason=reason), "has its new payload", as_json=as_json)
        return
    from joblane.cli.editor import edited

    before = inspector.task(id_).payload
    if before is None:
        terminal.stop("its payload was cleared; enqueue a new task", Exit.STATE)
    if not terminal.is_terminal():
        terminal.usage("there is no terminal to edit on; give the payload", "--json")
    with edited(terminal.pretty(before) + "\n") as text:
        if text is None:
            terminal.say("The payload is unchanged; nothing was done.")
            return
        changed = _parse(text, "the edited payload")
        _report(inspector.edit(id_, changed, reason=reason), "has its new payload", as_json=as_json)


# --- Payloads --------------------------------------------------------------------------------------------------------


def read_payload(given: str | None) -> dict[str, Any] | None:
    """The payload from JSON, from ``@file``, or from the input for ``-``. Errors name its source and never show it."""
    if given is None:
        return None
    text, where = given, "--json"
    if given == "-":
        text, where = sys.stdin.read(MAX_BYTES), "--json -"
    elif given.startswith("@"):
        where = f"--json {given}"
        try:
            text = Path(given[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not text in UTF-8"
            terminal.usage(f"the file cannot be read: {reason}", where)
    return _parse(text, where)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        terminal.usage(f"not JSON: {error.msg} in line {error.lineno}, column {error.colno}", where)
    except ValueError:  # Python's own limit on the digits of a number
        terminal.usage("a number in it has too many digits", where)
    except RecursionError:
        terminal.usage("it is nested too deeply", where)
    if not isinstance(value, dict):
        terminal.usage("a JSON object is required: {…}", where)
    return value


# --- Options and output ----------------------------------------------------------------------------------------------


def _seconds(text: str | None, option: str) -> float | None:
    found = filters.duration_of(text, option)
    return None if found is None else found.total_seconds()


def _time(text: str | None, option: str) -> str | None:
    found = filters.time_of(text, option)
    return None if found is None else found.isoformat()


def _report(acted: ActionResult, what: str, *, as_json: bool) -> None:
    terminal.answer(acted, as_json=as_json)
    id_ = acted.new_id or acted.id
    _print(id_)
    terminal.say(f"Task {id_} {what}; it is {acted.after}.")


def _print(text: str) -> None:
    """Print only ``text`` to the output, for scripts."""
    typer.echo(terminal.clean(text, lines=True))
