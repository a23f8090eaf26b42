"""The sentences of the start page and of the doctor's checks of the work."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from joblane.inspector.durations import lasting
from joblane.inspector.sentences.counts import plural, waits

if TYPE_CHECKING:
    from joblane.inspector.views import Check, Trouble


def trouble_line(trouble: Trouble) -> str:
    """The first line of an overview: all is well, or the number of things that need an operator."""
    if not trouble.number:
        return "All is well: nothing needs you now."
    number = "1 thing needs you" if trouble.number == 1 else f"{trouble.number:,} things need you"
    bad = sum(check.grade == "bad" for check in trouble.needs)
    urgent = f"{bad:,} {'is' if bad == 1 else 'are'} urgent"
    return f"{number}, and {urgent}." if 0 < bad < trouble.number else f"{number}."


def need_line(check: Check) -> str:
    """A finding with its subject as one line."""
    return f"{check.what}: {check.found}"


def late_line(due: int, waited: str, target: str, tenant: str | None, its: tuple[int, int]) -> str:
    """Due tasks that wait too long, and a tenant with many of them. ``due`` 0: they have just started. ``its``: its
    number among the oldest, and the number of these."""
    if not due:
        return f"a task has been due for {waited}; the target is {target}"
    number = f"{plural(due)} {'is' if due == 1 else 'are'} due, the oldest for {waited}; the target is {target}"
    if tenant is None:
        return number
    return f"{number}. Tenant {tenant} has {its[0]:,} of {'them' if its[1] == due else f'the first {its[1]:,}'}"


def new_line(error: str, runs: int, version: str | None, age: timedelta, others: int) -> str:
    """A new error: ``new for 12 min, first in 3f2a1c0: 7 runs failed: KeyError: …``. ``others``: further new ones."""
    first = f", first in {version}" if version else ""
    more = f", and {plural(others, 'more new error')}" if others else ""
    return f"new for {lasting(age)}{first}: {plural(runs, 'run')} failed: {error}{more}"


def held_line(number: int, waited: str, target: str) -> str:
    """Tasks that wait for a declared limit for too long."""
    return f"{waits(number)} for a limit, the oldest for {waited}; the target is {target}"
