"""Tasks by hand: `enqueue`, `invoke`, `replay`, `edit`.

In these commands `--json` is the payload. For an answer as JSON they have `--as-json`, as other commands do.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from joblane.cli import filters, options, target, terminal
from joblane.cli.exits import Exit, exit_of
from joblane.errors import EnqueueError
from joblane.inspector.shell import argument
from joblane.local.errors import LocalError
from joblane.tasks.job import OPTIONS
from joblane.tasks.option_facts import DURATION, MOMENT, NUMBER, TEXTS, Option

if TYPE_CHECKING:
    from joblane.inspector.views import ActionResult

Payload = Annotated[
    str | None,
    typer.Option("--json", metavar="JSON|@FILE|-", help="The payload as JSON, from a file, or from the input."),
]
AsJson = Annotated[bool, typer.Option("--as-json", help="Print the answer as one JSON document.")]
MAX_BYTES = 64 * 1024 * 1024
"""Size of a payload from the input: far above the limit of a task, and small enough for the memory."""


def _flag(name: str, option: Option) -> Any:
    """The type of a parameter: the option of `joblane enqueue`."""
    values = option.values
    help_ = option.help
    if values.choices:
        *others, last = values.choices
        help_ += f": {', '.join(others)} or {last}"
    elif values is TEXTS:
        help_ += ". You can repeat the option"
    elif option.example:
        help_ += f", for example {option.example}"
    kind: Any = {NUMBER: int, TEXTS: list[str]}.get(values, str)
    flag = typer.Option(
        *option.flags,
        metavar=values.metavar or option.flags[0].rpartition("-")[2].upper(),
        help=f"{help_}.",
        min=option.low if values is NUMBER else None,
        autocompletion=None if values.choices is None else lambda: list(values.choices or ()),
    )
    return Annotated[kind | None, flag]


FLAGS = {name: option for name, option in OPTIONS.items() if option.flags}
if TYPE_CHECKING:
    Flags = object
else:
    Flags = make_dataclass("Flags", [(name, _flag(name, option), None) for name, option in FLAGS.items()])


@options.expanded
def enqueue(
    context: typer.Context,
    type_: options.Type,
    *,
    payload: Payload = None,
    flags: Flags,
    reason: options.Reason = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until it has ended; the exit status is that of `wait`.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Enqueue a task. Its payload is checked before anything is written."""
    values = {name: _value(option, getattr(flags, name)) for name, option in FLAGS.items()}
    if values["process_in"] is not None and values["process_at"] is not None:
        terminal.usage("give --in or --at, not both", "--at")
    given = {name: value for name, value in values.items() if value is not None}
    given_payload = read_payload(payload) or {}
    inspector = target.inspector(context)
    try:
        acted = inspector.enqueue(type_, given_payload, options=given, reason=reason)
    except EnqueueError as error:
        if error.field not in given or exit_of(error) is not Exit.USAGE:
            raise
        terminal.usage(error.problem, FLAGS[error.field].flags[0])
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
    type_: options.Type,
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
    context: typer.Context,
    id_: options.Id,
    payload: Payload = None,
    reason: options.Reason = None,
    as_json: AsJson = False,
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
    context: typer.Context,
    id_: options.Id,
    payload: Payload = None,
    reason: options.Reason = None,
    as_json: AsJson = False,
) -> None:
    """Change the payload of a waiting or archived task.

    Give it by `--json`, or change it in $EDITOR. A field shown as [redacted] keeps its value if left unchanged.
    """
    changed = read_payload(payload)
    inspector = target.inspector(context)
    if changed is not None:
        _report(inspector.edit(id_, changed, reason=reason), "has its new payload", as_json=as_json)
        return
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


def _value(option: Option, given: Any) -> Any:
    """The JSON value of an option."""
    values, flag = option.values, option.flags[0]
    if values is DURATION or values is MOMENT:
        read = filters.duration_of if values is DURATION else filters.time_of
        found = read(given, flag)
        return None if found is None else values.to_json(found)
    if values.choices and given is not None:
        return filters.one_of(values.choices, given, flag)
    return given or None if values is TEXTS else given


def _report(acted: ActionResult, what: str, *, as_json: bool) -> None:
    terminal.answer(acted, as_json=as_json)
    id_ = acted.new_id or acted.id
    _print(id_)
    terminal.say(f"Task {id_} {what}; it is {acted.after}.")


def _print(text: str) -> None:
    """Print only ``text`` to the output, for scripts."""
    typer.echo(terminal.clean(text, lines=True), file=sys.stdout)


# --- The user's editor -----------------------------------------------------------------------------------------------


@contextmanager
def edited(before: str) -> Iterator[str | None]:
    """The saved text; None if it is unchanged. The file is kept if the block raises.

    Raises :class:`LocalError` if the editor fails.
    """
    with tempfile.NamedTemporaryFile(
        "w", suffix=".json", prefix="payload-", encoding="utf-8", delete=False
    ) as file:  # only its owner can read it
        file.write(before)
    path = Path(file.name)
    try:
        _run(path)
        after = path.read_text(encoding="utf-8")
    except (LocalError, OSError, UnicodeDecodeError):
        path.unlink(missing_ok=True)
        raise
    try:
        yield None if after == before else after
    except BaseException:
        terminal.say(f"Your text is kept. Correct the file, and give it with  --json @{shlex.quote(str(path))}")
        raise
    path.unlink(missing_ok=True)


def _run(path: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        subprocess.run([*shlex.split(editor), str(path)], check=True)  # noqa: S603 - the user's own editor
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise LocalError(f"The editor {editor!r} failed ({error}); nothing was done.") from error
