"""A note on the schedules that keep a database awake which may pause, and on what that costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from joblane.cdk.costs import pausing
from joblane.cdk.database_hours import Tasks, sentences
from joblane.cdk.preflight.findings import Finding, note
from joblane.cdk.templates import Template


def findings_on_pauses(templates: Iterable[Template], tasks: Tasks) -> Iterator[Finding]:
    """Yield a note if the stage's own database may pause. ``tasks``: as declared."""
    if (found := pausing(templates, tasks)) is not None:
        why, do = sentences(*found)
        yield note("database", why, do)
