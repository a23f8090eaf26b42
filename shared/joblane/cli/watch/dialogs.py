"""The dialogs of `joblane watch`: a choice, a confirmation with fields, and the keys; and the lines of keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Static

from joblane.cli.terminal import clean, word
from joblane.cli.watch.grid import Scrolled
from joblane.record.audit import MAX_REASON

ANYWHERE = (
    Binding("ctrl+c", "app.quit", show=False, priority=True),
    Binding("ctrl+z", "app.suspend_process", show=False, priority=True),
)
"""Keys of the lists and of each dialog."""
LIST_KEYS = "↑↓ select  ←→ list  Enter show  / filter  p pause  r retry  ? help  q quit"
TASK_KEYS = "↑↓ scroll  Esc back  p pause  r retry  w wait  ? help  q quit"
FILTER_KEYS = "Enter: filter, empty: all   Esc: cancel   The words are those of joblane ls:"
HELP = (
    ("1 to 7, ← →, h l, Tab", "choose the list"),
    ("↑ ↓, j k, PgUp PgDn, g G", "move"),
    ("Enter", "show the task, or list the tasks of a row"),
    ("/", "filter by the words of joblane ls:"),
    ("", "type=data:export state=retry newer=2h"),
    ("p", "pause or resume a row's type, queue, tenant"),
    ("r", "retry a task or an error's tasks, run a waiting task"),
    ("m", "mark an error: known, resolved, ignored, open"),
    ("w", "end the wait of a task, or send its signal"),
    ("R", "refresh now"),
    ("Esc", "back: close, end the filter, then quit"),
    ("q, Ctrl-C", "quit"),
    ("Ctrl-Z", "back to the shell; fg returns"),
)


@dataclass(frozen=True)
class Field:
    """An input. ``check`` raises ValueError with a sentence for a value that is not valid."""

    name: str
    label: str
    check: Callable[[str], object] = str


def required(text: str) -> None:
    """A check of a value that must not be empty."""
    if not text.strip():
        raise ValueError("A reason is required: it tells other operators why.")


class Dialog(ModalScreen[Any]):
    """A box in the middle of the screen. Its result is None if it is cancelled."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "cancel", show=False),
        *ANYWHERE,
    ]

    def action_cancel(self) -> None:
        self.dismiss(None)


class Choice(Dialog):
    """A list of lines, of which Enter chooses one. The result is its number."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q", "cancel", show=False)]

    def __init__(self, title: str, lines: Sequence[str]) -> None:
        super().__init__()
        self._title, self._lines = title, lines

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(word(self._title, "bold"))
            yield Choices(show_header=False, cursor_type="row")
            yield Static(word("Enter: choose   Esc: cancel", "dim"))

    def on_mount(self) -> None:
        choices = self.query_one(Choices)
        choices.add_column("")
        for line in self._lines:
            choices.add_row(word(line))

    def on_data_table_row_selected(self, event: DataTable.RowSelected) -> None:
        event.stop()
        self.dismiss(event.cursor_row)


class Waiting(Dialog):
    """A sentence while an answer is awaited. It takes the keys meanwhile: they are meant for the next dialog."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="box"):
            yield Static(word(self._text))
            yield Static(word("Esc: cancel", "dim"))


class Choices(DataTable[Text]):
    """Lines with the keys of the lists."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("j", "cursor_down", show=False),
        Binding("k", "cursor_up", show=False),
    ]


class Confirmation(Dialog):
    """A sentence that says what will happen, and inputs. The result has the values of the inputs by their names.

    Enter goes to the next input, and in the last one it confirms.
    """

    def __init__(self, title: str, text: str, fields: Sequence[Field], confirm: str) -> None:
        super().__init__()
        self._title, self._text, self._fields, self._confirm = title, text, fields, confirm

    def compose(self) -> ComposeResult:
        with Vertical(classes="box"):
            yield Static(word(self._title, "bold"))
            yield Static(Text(clean(self._text, lines=True)))
            for field in self._fields:
                yield Static(word(field.label), classes="label")
                yield Input(id=field.name, compact=True, max_length=MAX_REASON, select_on_focus=False)
            yield Static(id="problem")
            yield Static(word(f"Enter: {self._confirm}   Esc: cancel, nothing is done", "dim"))

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        inputs = list(self.query(Input))
        for number, (field, each) in enumerate(zip(self._fields, inputs, strict=True), 1):
            try:
                field.check(each.value)
            except ValueError as error:
                self.query_one("#problem", Static).update(word(error, "red"))
                each.focus()
                return
            if each is event.input and each is not inputs[-1]:
                self.query_one("#problem", Static).update("")
                inputs[number].focus()
                return
        self.dismiss({each.id: each.value.strip() for each in inputs})


class Help(Dialog):
    """The keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("q,question_mark", "cancel", show=False)]

    def __init__(self, text: Text) -> None:
        super().__init__()
        self._text = text

    def compose(self) -> ComposeResult:
        with Scrolled(classes="box"):
            yield Static(self._text)


def help_text() -> Text:
    """A line for each key."""
    text = Text("Keys\n\n", "bold")
    for keys, meaning in HELP:
        text.append_text(word(f"{keys:<26}", "")).append_text(word(meaning)).append("\n")
    return text
