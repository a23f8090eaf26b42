"""`joblane watch` without a terminal: a test presses keys, and reads the screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

from rich.segment import Segment
from textual.pilot import Pilot
from textual.widgets import Input

from joblane.cli.watch.app import Watch
from joblane.inspector.inspector import Inspector
from tests.patience import PATIENCE_SECONDS


@dataclass
class Screen:
    """The application under test."""

    app: Watch
    pilot: Pilot[None]

    @property
    def segments(self) -> list[list[Segment]]:
        """The lines of the screen."""
        return [list(strip) for strip in self.app.screen._compositor.render_strips()]

    @property
    def lines(self) -> list[str]:
        return ["".join(segment.text for segment in line).rstrip() for line in self.segments]

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    @property
    def selected(self) -> str:
        """The text at the cursor, and the name of the list."""
        return " ".join(
            segment.text for line in self.segments for segment in line if segment.style and segment.style.reverse
        )

    @property
    def sentences(self) -> str:
        """The text without line ends."""
        return " ".join(self.text.split())

    async def press(self, *keys: str) -> None:
        for key in keys:
            await self.until(lambda: self.app.focused is not None)
            dialogs = len(self.app.screen_stack)
            self.app.simulate_key(key)
            await self.pilot.pause(0)  # Pilot.press also waits for the process to be idle, which takes long
            if key == "escape" and dialogs > 1:  # a key that follows is for the list
                await self.until(lambda before=dialogs: len(self.app.screen_stack) < before)  # type: ignore[misc]

    async def type(self, text: str, into: str = "reason") -> None:
        """Type a text, and Enter. ``into``: the id of the input."""
        await self.until(lambda: self.app.focused is not None and self.app.focused.id == into)
        cast(Input, self.app.focused).insert_text_at_cursor(text)
        await self.press("enter")

    async def until(self, condition: str | Callable[[], bool]) -> None:
        """Wait until a text is on the screen, or until a condition is true."""
        ends = time.monotonic() + PATIENCE_SECONDS
        while not (condition in self.sentences if isinstance(condition, str) else condition()):
            assert self.app.failure is None, self.app.failure
            assert time.monotonic() < ends, f"{condition} did not come:\n{self.text}"
            await self.pilot.pause(0.01)


def watch(
    inspector: object,
    scenario: Callable[[Screen], Awaitable[None]],
    *,
    size: tuple[int, int] = (80, 24),
    every: float = 60,
    **options: Any,
) -> Watch:
    """Run a scenario on the application, whose first answer is on the screen, and return the application.

    ``every``: seconds between queries. ``options``: of :class:`Watch`.
    """
    given: dict[str, Any] = {"minutes": 30, "stage": "local", "command": "jobs", "source": "the database"} | options
    app = Watch(cast(Inspector, inspector), every=every, **given)

    async def run() -> None:
        async with app.run_test(size=size) as pilot:
            screen = Screen(app, pilot)
            await screen.until(lambda: "Loading" not in screen.text and "quit" in screen.text)
            await scenario(screen)

    asyncio.run(run())
    if app.failure is not None:
        raise app.failure
    return app
