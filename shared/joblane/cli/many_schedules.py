"""An action on many schedules made at run time: one by one, each with its audit entry."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import typer

from joblane.cli import terminal
from joblane.cli.exits import Exit
from joblane.cli.follow import bar
from joblane.errors import UnknownScheduleError
from joblane.inspector.errors import BusyError, SelectionError
from joblane.inspector.sentences.counts import plural
from joblane.inspector.sentences.schedules import a_day

if TYPE_CHECKING:
    from joblane.inspector.inspector import Inspector
    from joblane.inspector.views import SchedulePage, ScheduleRow

PAGE, MOST_EXAMPLES = 200, 5
WORDS = {
    "pause": ("Paused", "paused already"),
    "resume": ("Resumed", "not paused"),
    "delete": ("Deleted", "gone"),
}
"""Action → its past, and the state of schedules that it skips."""


@dataclass
class Outcome:
    """The document of an action. ``number``: schedules to change. ``ticks_a_day``: of them all. ``changed``: so far.

    ``skipped``: in the wanted state already. ``busy``: another transaction was changing them.
    """

    action: str
    number: int
    ticks_a_day: float
    examples: tuple[str, ...]
    skipped: int
    changed: int = 0
    busy: int = 0

    def __str__(self) -> str:
        past, state = WORDS[self.action]
        skipped = f"; {self.skipped:,} skipped ({state})" if self.skipped else ""
        busy = f"; another transaction is changing {self.busy:,}: repeat the command" if self.busy else ""
        return f"{past} {self.changed:,} of {plural(self.number, 'schedule')}{skipped}{busy}."


def run(
    inspector: Inspector,
    action: str,
    act: Callable[[str], object],
    *,
    tenant: str | None,
    type_: str | None,
    dry_run: bool,
    yes: bool,
    as_json: bool,
) -> Exit:
    """Act on all schedules of a tenant or type. The command can be repeated: it changes the rest."""
    found, read = dict[str, float](), 0
    for one in _matching(inspector, tenant, type_):
        read += 1
        if action == "delete" or (one.pause is None) is (action == "pause"):
            found[one.name] = one.ticks_a_day
    if not read:
        terminal.stop("no schedule made at run time matches", Exit.NOTHING)
    outcome = Outcome(action, len(found), sum(found.values()), tuple(found)[:MOST_EXAMPLES], read - len(found))
    if found:
        what = f"{action} {plural(len(found), 'schedule')} with {a_day(outcome.ticks_a_day)} ticks a day"
        terminal.say(f"For example: {', '.join(outcome.examples)}")
        if dry_run:
            terminal.say(f"It would {what}.")
        else:
            terminal.confirm(f"{what.capitalize()}?", yes=yes)
            _act(outcome, found, act)
    if as_json:
        terminal.document(outcome)
    elif not (dry_run and found):
        terminal.say(str(outcome))
    return Exit.FAILED if outcome.busy else Exit.DONE


def _matching(inspector: Inspector, tenant: str | None, type_: str | None) -> Iterator[ScheduleRow]:
    page: SchedulePage | None = None
    while page is None or page.after is not None:
        after = None if page is None else page.after
        page = inspector.schedules(tenant=tenant, type=type_, origin="run_time", after=after, limit=PAGE)
        yield from page.schedules


def _act(outcome: Outcome, names: Collection[str], act: Callable[[str], object]) -> None:
    try:
        with bar() as progress:
            for name in progress.track(names, description=outcome.action):
                try:
                    act(name)
                    outcome.changed += 1
                except BusyError:
                    outcome.busy += 1
                except (UnknownScheduleError, SelectionError) as error:  # a program or an operator was faster
                    if getattr(error, "field", "name") != "name":
                        raise
                    outcome.skipped += 1
    except BaseException as error:
        if outcome.changed:
            terminal.say(f"{outcome} Repeat the command for the rest.")
        if isinstance(error, KeyboardInterrupt):
            raise typer.Exit(Exit.INTERRUPTED) from None
        raise
