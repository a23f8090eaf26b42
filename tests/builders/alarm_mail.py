"""The text of an alarm's mail, as the stage `prod` sends it. A test of the stacks compares it with the alarm."""

from __future__ import annotations

ARCHIVED = """\
sample:one: at least 1 task was archived in 15m: all attempts failed, or the handler raised SkipRetry. Archived tasks \
are kept, and do not run again by themselves.
Run: joblane --stage prod dead --newer 1h --type sample:one
Runbook: docs/how-to/operate.md#archived"""


def command(mail: str) -> str:
    """The command of a mail, without the stage."""
    [line] = [line for line in mail.splitlines() if line.startswith("Run: ")]
    return line.removeprefix("Run: joblane --stage prod ")
