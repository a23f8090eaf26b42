"""Progress output, a line for each step with its time. Steps may overlap."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console


class Checklist:
    """Prints a line for each finished step and, on a terminal, the names of the running steps."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._status = console.status("")
        self._lock = threading.Lock()
        self._running: list[str] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Print the step with the time of the block, which may run in any thread."""
        started = time.monotonic()
        self._show(start=name)
        try:
            yield
        except BaseException:
            self._show(end=name)
            self._console.print(f"  [red]✗[/red] {name}")
            raise
        self._show(end=name)
        self._console.print(
            f"  [green]✓[/green] {name:<44} [dim]{time.monotonic() - started:5.1f} s[/dim]", highlight=False
        )

    def _show(self, *, start: str | None = None, end: str | None = None) -> None:
        with self._lock:
            if start:
                self._running.append(start)
            if end:
                self._running.remove(end)
            self._status.update(", ".join(self._running))
            if self._running and self._console.is_terminal:
                self._status.start()
            else:
                self._status.stop()
