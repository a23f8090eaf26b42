"""The application of `joblane watch`: lists with a cursor, details of a task, filters, pauses and retries."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.events import Resize
from textual.timer import Timer
from textual.widgets import DataTable, Input, Static

from joblane.cli.exits import Exit, exit_of, message_of
from joblane.cli.terminal import word
from joblane.cli.watch import dialogs, plans, words
from joblane.cli.watch.dialogs import ANYWHERE, FILTER_KEYS, LIST_KEYS, TASK_KEYS, help_text
from joblane.cli.watch.feed import TERMINATED, Answers, Done, act, await_ends
from joblane.cli.watch.grid import Grid, Scrolled, details
from joblane.cli.watch.lists import VIEWS, Asked, Listing, RowTarget, View, notes, tabs, task_target
from joblane.cli.watch.style import CSS
from joblane.errors import sqlstate
from joblane.inspector.filter import Filter
from joblane.inspector.inspector import Inspector
from joblane.inspector.sentences.actions import report
from joblane.inspector.sentences.blocks import canary_waits_line
from joblane.inspector.views import BulkView
from joblane.record.driver.connection import INSUFFICIENT_PRIVILEGE, READ_ONLY

RETRY_SECONDS = 5.0
"""Time between queries while they fail."""
SILENT_SECONDS = 5.0
"""A query that takes longer than this is reported as unanswered."""
NOTES = 3
"""Lines below a list in a terminal of 24 lines."""
READ_ONLY_STATES = (INSUFFICIENT_PRIVILEGE, READ_ONLY)
"""SQLSTATEs *insufficient privilege* and *read-only SQL transaction*."""


class Watch(App[None]):
    """The lists of a stage with their keys, refreshed until the user leaves.

    ``every``: seconds between queries. ``minutes``: the time of charts and failures. ``read_only``: why actions are
    refused, None if they are not. ``source``: what answers the queries, for the line about its silence.
    """

    ENABLE_COMMAND_PALETTE = False
    CSS = CSS
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", show=False),
        *ANYWHERE,
        Binding("escape", "leave", show=False),
        Binding("slash", "filter", show=False),
        Binding("p", "pause", show=False),
        Binding("r", "retry", show=False),
        Binding("w", "wait", show=False),
        Binding("m", "mark", show=False),
        Binding("R", "refresh", show=False),
        Binding("question_mark", "help", show=False),
        *(Binding(str(number), f"view({number})", show=False) for number in range(1, len(VIEWS) + 1)),
    ]

    def __init__(
        self,
        inspector: Inspector,
        *,
        every: float,
        minutes: int,
        stage: str,
        command: str,
        source: str,
        read_only: str | None = None,
    ) -> None:
        super().__init__(ansi_color=True)
        self.theme = "ansi-dark"  # the terminal's own colours, dark or light
        # Textual's own report of a bug prints the values of variables, in which a payload may be.
        self.error_console.quiet = True
        self.failure: Exception | None = None
        """The bug that ended it; None if the user did, or a bug of a widget."""
        self.read_only = read_only
        self._inspector, self._every, self._source = inspector, every, source
        self._stage, self._command = stage, command
        self._asked = Asked(VIEWS[0], minutes=minutes)
        self._back: list[Asked] = []
        self._texts: dict[Filter, str] = {}
        self._answers = Answers()
        self._problem: str | None = None
        self._bulk: str | None = None
        self._since: float | None = None
        """The time since which a query waits for its answer."""
        self._is_due = False
        self._timer: Timer | None = None

    @contextmanager
    def _ends_at_a_bug(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            self.exit(return_code=Exit.FAILED)

    async def run_action(self, action: Any, default_namespace: Any = None, namespaces: Any = None) -> bool:
        with self._ends_at_a_bug():
            return await super().run_action(action, default_namespace, namespaces)
        return True

    def on_done(self, event: Done) -> None:
        with self._ends_at_a_bug():
            event.then(event.result, event.error)

    # --- The screen --------------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        for name in ("head", "tabs", "notice", "above", "empty"):
            yield Static(id=name, markup=False)
        yield Grid()
        with Scrolled(id="detail"):
            yield Static(id="task", markup=False)
        for name in ("notes", "bulk", "message", "hints"):
            yield Static(id=name, markup=False)
        yield Input(
            id="filter", compact=True, placeholder="type=data:export state=retry newer=2h", select_on_focus=False
        )

    def on_mount(self) -> None:
        self.query_one("#filter").display = False
        self.say("")
        self._set("bulk", None)
        self._grid.focus()
        self._draw()
        self.set_interval(1, self._draw_notice)
        self.action_refresh()
        if not self.is_headless:
            await_ends(sys.stdin.fileno(), lambda: self.exit(return_code=TERMINATED))

    def on_resize(self, _: Resize) -> None:
        self.call_later(self._draw)  # the application takes the new size after this

    @property
    def _grid(self) -> Grid:
        return self.query_one(Grid)

    def _set(self, name: str, content: RenderableType | None) -> None:
        for screen in self.screen_stack[:1]:
            for static in screen.query(f"#{name}").results(Static):  # no widget while the application ends
                static.display = bool(content)
                static.update(content or "")

    def say(self, text: str, style: str = "") -> None:
        """Show a message until the list changes."""
        self._set("message", word(text, style or "bold") if text else None)

    def _draw(self) -> None:
        """Draw the latest answer for what is shown."""
        if not self.is_running or not self.screen_stack:
            return
        asked, answer = self._asked, self._answers.of(self._asked)
        self._set("tabs", tabs(asked.view))
        keys = LIST_KEYS if asked.task is None else TASK_KEYS
        self._set("hints", word(FILTER_KEYS if self._filtering else keys, "dim"))
        self._draw_notice()
        listing = None
        with self._ends_at_a_bug():
            if asked.task is None and answer is not None:
                listing = asked.view.draw(answer[1], asked, self._width)
            elif asked.task is not None and answer is not None:
                self.query_one("#task", Static).update(details(answer[1], self._width, self._command))
            self._draw_list(asked, listing, loading=answer is None)

    def _draw_list(self, asked: Asked, listing: Listing | None, *, loading: bool) -> None:
        detail = self.screen_stack[0].query_one("#detail", Scrolled)
        detail.display = asked.task is not None and not loading
        self._set("above", None if listing is None else listing.above)
        given, command = () if listing is None else listing.notes, f"{self._command} {asked.view.command}"
        self._set("notes", notes(given, self._width, max(NOTES, self.size.height // 8), command))
        empty = listing is not None and not listing.targets
        nothing = "Nothing matches the filter." if asked.chosen != Filter() else asked.view.nothing
        text = nothing.format(minutes=asked.minutes) if empty else "Loading …" if loading else ""
        self._set("empty", word(text, "dim"))
        grid = self.screen_stack[0].query_one(Grid)
        grid.display = asked.task is None
        if grid.display:
            grid.fill(listing, self._width)
        if not self._filtering and len(self.screen_stack) == 1:
            (detail if detail.display else grid).focus()

    @property
    def _width(self) -> int:
        """Columns for a list: without its margin, and the bar at its right."""
        return self.size.width - 2

    def _draw_notice(self) -> None:
        """Draw the first line, and that about a filter, or about data that is not up to date."""
        asked, answer = self._asked, self._answers.of(self._asked)
        head = word(f"joblane watch  {self._stage}", "bold")
        if self.read_only:
            head.append("  read-only", "bold yellow")
        head.append(f"   {datetime.now(UTC):%Y-%m-%d %H:%M:%SZ}", "dim")
        self._set("head", head)
        notice = Text()
        text = self._texts.get(asked.chosen, "")
        if text:
            notice = words.notice(text, asked.chosen, asked.view.fields)
        problem = self._problem
        if self._since is not None and time.monotonic() - self._since > SILENT_SECONDS:
            problem = f"no answer from {self._source}"
        if problem:
            since = f"Not up to date since {answer[0]:%H:%M:%S}Z: " if answer else "Nothing to show yet: "
            line = word(f"{since}{problem}. Retrying every {RETRY_SECONDS:.0f} s.", "bold red")
            notice = Text("\n").join([line, notice]) if text else line
        self._set("notice", notice if notice.plain else None)

    # --- Queries -----------------------------------------------------------------------------------------------------

    def action_refresh(self) -> None:
        """Fetch what is shown now, or at once after the query that is under way."""
        self._is_due = self._since is not None
        if self._is_due:
            return
        if self._timer is not None:
            self._timer.stop()
        self._since = time.monotonic()
        act(partial(self._fetch, self._asked), partial(self._fetched, self._asked), self.post_message)

    def _fetch(self, asked: Asked) -> tuple[Any, BulkView | None]:
        """In a thread."""
        bulk = None if self._bulk is None else self._inspector.bulk_view(self._bulk)
        if asked.task is not None:
            return self._inspector.task(asked.task), bulk
        return asked.view.fetch(self._inspector, asked), bulk

    def _fetched(self, asked: Asked, answer: tuple[Any, BulkView | None], error: Exception | None) -> None:
        self._since = None
        if self._is_due:
            self.action_refresh()
        else:
            seconds = RETRY_SECONDS if error is not None else max(self._every, asked.view.every)
            self._timer = self.set_timer(seconds, self.action_refresh)
        if error is not None:
            self._failed(asked, error)
            return
        data, bulk = answer
        self._answers.keep(asked, data)
        self._problem = None
        if bulk is not None and bulk.id == self._bulk:
            self._follow(bulk)
        self._draw()

    def _follow(self, bulk: BulkView) -> None:
        """Show the report of a redrive, again and again until none of its tasks waits or runs."""
        self._set("bulk", word(canary_waits_line(bulk) or report(bulk), "bold"))
        self._bulk = None if plans.is_over(bulk) else bulk.id

    def _failed(self, asked: Asked, error: Exception) -> None:
        if exit_of(error) is None:
            raise error
        if replace(asked, name=None) == replace(self._asked, name=None):
            self._problem = plans.first_sentence(message_of(error))
            self._draw()

    # --- Lists -------------------------------------------------------------------------------------------------------

    def _show(self, asked: Asked, *, back: bool = False) -> None:
        if not back and (asked.task, asked.chosen) != (self._asked.task, self._asked.chosen):
            self._back.append(self._asked)
        self._asked = asked
        self.say("")
        if self._bulk is None:
            self._set("bulk", None)
        self._draw()
        self.action_refresh()

    def action_view(self, number: int) -> None:
        view = VIEWS[number - 1]
        self._show(replace(self._asked, view=view, task=None, name=None), back=self._asked.task is None)

    def action_turn(self, step: int) -> None:
        self.action_view((VIEWS.index(self._asked.view) + step) % len(VIEWS) + 1)

    def action_leave(self) -> None:
        if self._filtering:
            self.say("")
            self._close_filter()
        elif self._back:
            self._show(self._back.pop(), back=True)
        else:
            self.exit()

    def action_help(self) -> None:
        self.push_screen(dialogs.Help(help_text()))

    def on_data_table_row_selected(self, _: DataTable.RowSelected) -> None:
        target = self._grid.target
        if target is None:
            return
        if target.task is not None:
            self._show(replace(self._asked, task=target.task.id))
        else:
            self._filtered(target.words, view=VIEWS[1])

    def on_data_table_row_highlighted(self, _: DataTable.RowHighlighted) -> None:
        target = self._grid.target
        if self._asked.view.selecting and self._asked.task is None and target and target.type != self._asked.name:
            self._asked = replace(self._asked, name=target.type)
            self.action_refresh()

    # --- The filter --------------------------------------------------------------------------------------------------

    def action_filter(self) -> None:
        line = self.query_one("#filter", Input)
        text = self._texts.get(self._asked.chosen, "")
        line.display, line.value = True, f"{text} " if text else ""
        self._draw()
        line.cursor_position = len(line.value)
        line.focus()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if self._filtered(event.value):
            self._close_filter()

    def _close_filter(self) -> None:
        self.query_one("#filter").display = False
        self._draw()

    @property
    def _filtering(self) -> bool:
        return bool(self.screen_stack[0].query_one("#filter").display)

    def _filtered(self, text: str, view: View | None = None) -> bool:
        """Show the list with a filter; False if the text is not valid."""
        try:
            chosen = words.parsed(text)
        except ValueError as error:
            self.say(str(error), "red")
            return False
        self._texts[chosen] = text.strip()
        self._show(replace(self._asked, view=view or self._asked.view, chosen=chosen, task=None, name=None))
        return True

    # --- Actions -----------------------------------------------------------------------------------------------------

    @property
    def _target(self) -> RowTarget | None:
        if self._asked.task is None:
            return self._grid.target
        answer = self._answers.of(self._asked)
        return answer and task_target(answer[1].row)

    def action_pause(self) -> None:
        target = self._target
        if not self._may_act():
            return
        if target is None or not target.scopes:
            self.say("p works on a row with a type, queue, tenant or schedule.")
            return
        self._offer("Pause or resume", "Reading the pauses …", self._inspector.pauses, plans.pauses(target))

    def action_wait(self) -> None:
        target = self._target
        if not self._may_act():
            return
        if target is None or target.task is None:
            self.say("w works on a task.")
            return
        query = partial(self._inspector.task, target.task.id)
        self._offer("Continue the task", "Reading the task …", query, plans.of_wait)

    def action_mark(self) -> None:
        target = self._target
        if not self._may_act():
            return
        if target is None or target.cause is None or not target.cause.fingerprint:
            self.say("m works on an error.")
            return
        cause = target.cause
        self._offer("Mark the error", "", lambda: cause, plans.marks)

    def action_retry(self) -> None:
        target = self._target
        if self._may_act():
            if target is not None and target.cause is not None:
                cause = target.cause
                if not cause.archived:
                    self.say("No task is archived with this error. Its tasks are tried again by themselves.")
                    return
                query = partial(plans.preview, self._inspector, cause)
                self._offer(
                    "Redrive", "Reading what will stop it …", query, lambda found: [plans.redrive(cause, found)]
                )
                return
            plan = plans.again(target, datetime.now(UTC))
            if isinstance(plan, str):
                self.say(plan)
            else:
                self._ask(plan)

    def _may_act(self) -> bool:
        if self.read_only:
            self.say(f"Nothing was done. {self.read_only}", "yellow")
        return not self.read_only

    def _offer(self, title: str, reading: str, query: Callable[[], Any], of: Callable[[Any], list[plans.Plan]]) -> None:
        """Fetch what the plans depend on, and let the user choose one."""
        waiting = dialogs.Waiting(reading)
        self.say("")
        self.push_screen(waiting)
        act(query, partial(self._choose, title, of, waiting), self.post_message)

    def _choose(
        self,
        title: str,
        of: Callable[[Any], list[plans.Plan]],
        waiting: dialogs.Waiting,
        answer: Any,
        error: Exception | None,
    ) -> None:
        if self.screen is not waiting:
            return  # it was cancelled
        self.pop_screen()
        if error is not None:
            self._refused(error, f"Nothing was done: {plans.first_sentence(message_of(error))}.")
            return
        found = of(answer)

        def chosen(number: int | None) -> None:
            if number is not None:
                self._ask(found[number])

        if len(found) > 1:
            self.push_screen(dialogs.Choice(title, [plan.title for plan in found]), chosen)
        elif found:
            self._ask(found[0])
        else:
            self.say("This task does not wait for a time or a signal.")

    def _ask(self, plan: plans.Plan) -> None:
        def confirmed(given: dict[str, str] | None) -> None:
            if given is None:
                self.say("Nothing was done.")
            else:
                self.say(f"{plan.title} …")
                act(partial(plan.call, self._inspector, given), partial(self._acted, plan), self.post_message)

        self.push_screen(dialogs.Confirmation(plan.title, plan.text, plan.fields, plan.confirm), confirmed)

    def _acted(self, plan: plans.Plan, result: Any, error: Exception | None) -> None:
        if error is not None:
            self._refused(error, message_of(error))
            return
        if isinstance(result, BulkView):
            self.say("")
            self._follow(result)
        else:
            self.say(plan.result(result))
        self.action_refresh()

    def _refused(self, error: Exception, text: str) -> None:
        code = exit_of(error)
        if code is Exit.FORBIDDEN or sqlstate(error) in READ_ONLY_STATES:
            self.read_only = f"Your role can view this stage, and not act on it: {message_of(error)}"
            self._may_act()
            self._draw_notice()
        elif code is None:
            raise error
        else:
            self.say(text, "red")
