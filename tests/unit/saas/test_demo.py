"""The demo's table has the same layout on a busy machine."""

from __future__ import annotations

import io
import re

from rich.console import Console

from joblane.names import Queue
from saas.demo.demo import Expected, _is_late, _table


def shown(run_ms: int, seconds: float) -> list[str]:
    """The lines of a table with the longest names of the demo, without its times."""
    tasks = [Expected("one", "invites a user by mail"), Expected("two", "checks the platform")]
    names = {"one": ("tenant:initialize", Queue.CRITICAL), "two": ("system:health_check", Queue.CRITICAL)}
    ended = {"state": "completed", "runs": 3, "run_ms": run_ms, "seconds": seconds}
    rows = {id_: {"type": type_, "queue": queue} | ended for id_, (type_, queue) in names.items()}
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(_table(tasks, rows))
    return [re.sub(r" +\d+ m?s\b", " N", line.rstrip()) for line in capture.get().splitlines()]


def test_long_times_do_not_change_the_table() -> None:
    assert shown(12, 3) == shown(9_999, 99) == shown(10_123, 149) == shown(149_000, 149)


def test_a_machine_that_is_too_slow_is_not_a_wrong_outcome() -> None:
    tasks = [Expected("one", "invites"), Expected("two", "checks")]
    assert _is_late(tasks, {"one": {"state": "completed"}})
    assert _is_late(tasks, {"one": {"state": "completed"}, "two": {"state": "pending"}})
    assert not _is_late(tasks, {"one": {"state": "completed"}, "two": {"state": "archived"}})
