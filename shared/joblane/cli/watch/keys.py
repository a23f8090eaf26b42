"""The lines of keys of `joblane watch`, and its help."""

from __future__ import annotations

from rich.text import Text
from textual.binding import Binding

from joblane.cli.terminal import word

ANYWHERE = (
    Binding("ctrl+c", "app.quit", show=False, priority=True),
    Binding("ctrl+z", "app.suspend_process", show=False, priority=True),
)
"""Keys of the lists and of each dialog."""
LIST_KEYS = "↑↓ select  ←→ list  Enter show  / filter  p pause  r retry  ? help  q quit"
TASK_KEYS = "↑↓ scroll  Esc back  p pause  r retry  ? help  q quit"
FILTER_KEYS = "Enter: filter, empty: all   Esc: cancel   The words are those of joblane ls:"
HELP = (
    ("1 to 7, ← →, h l, Tab", "choose the list"),
    ("↑ ↓, j k, PgUp PgDn, g G", "move"),
    ("Enter", "show the task, or list the tasks of a row"),
    ("/", "filter by the words of joblane ls:"),
    ("", "type=data:export state=retry newer=2h"),
    ("p", "pause or resume a row's type, queue, tenant"),
    ("r", "retry a task or a cause, run a waiting task"),
    ("R", "refresh now"),
    ("Esc", "back: close, end the filter, then quit"),
    ("q, Ctrl-C", "quit"),
    ("Ctrl-Z", "back to the shell; fg returns"),
)


def help_text() -> Text:
    """A line for each key."""
    text = Text("Keys\n\n", "bold")
    for keys, meaning in HELP:
        text.append_text(word(f"{keys:<26}", "")).append_text(word(meaning)).append("\n")
    return text
