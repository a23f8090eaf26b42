"""Pauses and schedules: `pause`, `resume`, `schedules`, `tick`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from joblane.cli import completion, filters, target, terminal
from joblane.cli.commands import options as o
from joblane.cli.durations import milliseconds, relative
from joblane.cli.terminal import WIDE
from joblane.inspector.durations import stamp
from joblane.inspector.filter import PauseScope
from joblane.inspector.schedule_words import in_words
from joblane.inspector.shell import argument

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from joblane.inspector.views import Pause, ScheduleView, Tick

Scope = Annotated[
    str, typer.Argument(metavar="SCOPE", help="queue, type, tenant or schedule.", autocompletion=completion.scopes)
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name; TYPE:NAME for a schedule.")]
MISSED_SHOWN = 6
"""Times of missed ticks; ``--json`` shows more."""


def pause(
    context: typer.Context,
    scope: Annotated[
        str | None,
        typer.Argument(metavar="SCOPE", help="queue, type, tenant or schedule.", autocompletion=completion.scopes),
    ] = None,
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Its name; TYPE:NAME for a schedule.")] = None,
    *,
    reason: o.Reason = None,
    for_: Annotated[
        str | None,
        typer.Option("--for", metavar="DURATION", help="Resume automatically after this time, for example 2h."),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Resume at this time (ISO 8601).")] = None,
    as_json: o.AsJson = False,
) -> None:
    """Pause a queue, type, tenant or schedule.

    Running tasks continue, and nothing new starts. Tasks wait without spending attempts. Without arguments: list the
    pauses.
    """
    if scope is None:
        _show_pauses(context, as_json=as_json)
        return
    if name is None:
        terminal.usage(f"give the name of the {scope}", "NAME")
    chosen, named, ends = _scope(scope), filters.name_of(name, "NAME"), _ends(for_, until)
    paused = target.inspector(context).pause(chosen, named, reason=reason, until=ends)
    terminal.answer(paused, as_json=as_json)
    for line in paused_lines(paused):
        terminal.say(line)
    terminal.say(f"Resume:  {target.command(context)} resume {paused.scope} {argument(paused.name)}")


def resume(
    context: typer.Context, scope: Scope, name: Name, reason: o.Reason = None, as_json: o.AsJson = False
) -> None:
    """End a pause."""
    chosen, named = _scope(scope), filters.name_of(name, "NAME")
    was = target.inspector(context).resume(chosen, named, reason=reason)
    terminal.answer(was, as_json=as_json)
    terminal.say(resumed_line(was))


def paused_lines(paused: Pause) -> list[str]:
    """Sentences about a new pause: its end, its effect, and the pause that it replaces."""
    end = f"until {stamp(paused.until)}" if paused.until else "until it is resumed"
    lines = [f"Paused {paused.scope} {paused.name} {end}: {effect_of(paused.scope)}."]
    if paused.replaced:
        by = f" by {paused.replaced_by}" if paused.replaced_by else ""
        lines.append(
            f"It was already paused{by}, since {stamp(paused.since)}; your reason and end replace the earlier ones."
        )
    return lines


def effect_of(scope: PauseScope) -> str:
    """The effect of a pause."""
    if scope is PauseScope.SCHEDULE:
        return "its ticks run nothing"
    return "running tasks continue, nothing new starts. Tasks wait without spending attempts"


def resumed_line(was: Pause) -> str:
    """A sentence about a pause that was ended."""
    by = f" by {was.by}" if was.by else ""
    return f"Resumed {was.scope} {was.name}; it was paused{by} since {stamp(was.since)}."


def _show_pauses(context: typer.Context, *, as_json: bool) -> None:
    found = target.inspector(context).pauses()
    terminal.answer(found, as_json=as_json, nothing="Nothing is paused.")
    made = terminal.table("SCOPE", "NAME", "SINCE", "UNTIL", "BY", "REASON", fold=("NAME", "REASON"))
    for pause in found:
        until = stamp(pause.until) if pause.until else "until resumed"
        terminal.row(made, pause.scope, pause.name, stamp(pause.since), until, pause.by, pause.reason)
    terminal.console().print(made)


def _scope(text: str) -> PauseScope:
    return filters.one_of(PauseScope, text, "SCOPE")


def _ends(for_: str | None, until: str | None) -> datetime | None:
    if for_ is not None and until is not None:
        terminal.usage("give --for or --until, not both", "--until")
    length = filters.duration_of(for_, "--for")
    return filters.time_of(until, "--until") if length is None else datetime.now(UTC) + length


def schedules(context: typer.Context, as_json: o.AsJson = False) -> None:
    """List schedules, with their next times and last ticks."""
    found = target.inspector(context).schedules()
    terminal.answer(found, as_json=as_json)
    console = terminal.console()
    console.print(schedule_table(found, console.width))
    missed = [schedule for schedule in found if schedule.missed]
    for schedule in missed:
        console.print(terminal.word(missed_line(schedule)))
    if missed or any(tick.state is None for schedule in found for tick in schedule.ticks):
        terminal.say(f"× marks a missed tick. Send a tick now:  {target.command(context)} tick TYPE")


def missed_line(schedule: ScheduleView) -> str:
    """The number of missed ticks, and the times of the latest."""
    times = ", ".join(f"{at.astimezone(UTC):%H:%M}Z" for at in schedule.missed_at[:MISSED_SHOWN])
    more = ", …" if schedule.missed > MISSED_SHOWN else ""
    return f"{schedule.type} {schedule.name}: {schedule.missed:,} missed in 24 h: {times}{more}"


def schedule_table(found: Sequence[ScheduleView], width: int) -> Table:
    """A row for each schedule."""
    from joblane.cli.queue_tables import paused

    wide, now = width >= WIDE, datetime.now(UTC)
    more = ("OVERLAP", "ON AWS") if wide else ()
    pauses = ("PAUSED",) if any(schedule.pause for schedule in found) else ()
    took = ("TOOK",) if wide else ()
    made = terminal.table("TYPE", "NAME", "SCHEDULE", *more, "NEXT", "LAST TICKS", *took, *pauses, fold=("SCHEDULE",))
    for schedule in found:
        extra = (schedule.overlap, schedule.on_aws) if wide else ()
        words = in_words(schedule.text, schedule.timezone)
        next_time = relative(schedule.next[0], now) if schedule.next else None
        last = (paused(schedule.pause),) if pauses else ()
        terminal.row(
            made,
            schedule.type,
            schedule.name,
            words,
            *extra,
            next_time,
            _ticks(schedule.ticks),
            *(_took(schedule.ticks) for _ in took),
            *last,
        )
    return made


def _took(ticks: tuple[Tick, ...]) -> str | None:
    """The duration of the last run, and the longest of those whose ticks are shown."""
    durations = [tick.duration_ms for tick in ticks if tick.duration_ms is not None]
    if not durations:
        return None
    longest = max(durations)
    return milliseconds(durations[0]) + (f", longest {milliseconds(longest)}" if longest > durations[0] else "")


def _ticks(ticks: tuple[Tick, ...]) -> Text:
    """A mark for each of the last ticks, newest last."""
    from rich.text import Text

    marks = {"completed": ("✓", "green"), "archived": ("✗", "red"), "cancelled": ("–", "dim"), None: ("×", "bold red")}
    text = Text()
    for tick in reversed(ticks[:10]):
        text.append(*marks.get(tick.state, ("…", "blue")))
    return text


def tick(
    context: typer.Context,
    type_: o.Type,
    schedule: Annotated[
        str | None, typer.Option(metavar="NAME", help="Name of the schedule, if the task has several.")
    ] = None,
    reason: o.Reason = None,
    as_json: o.AsJson = False,
) -> None:
    """Send a tick of a periodic task now.

    This also works if the schedule is off in the stage.
    """
    acted = target.inspector(context).tick(type_, schedule=schedule, reason=reason)
    terminal.answer(acted, as_json=as_json)
    terminal.console().print(terminal.word(f"Sent: {acted.new_id or acted.id}", "none"), soft_wrap=True)
