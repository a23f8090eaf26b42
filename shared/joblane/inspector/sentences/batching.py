"""The sentences on the messages of an invocation: what a larger batch would save."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.inspector.durations import milliseconds

if TYPE_CHECKING:
    from joblane.inspector.views import Batching

NO_BATCH = {
    "place": "it belongs to the place of the type, and the messages of other types are in the same batches",
    "full": "its batches have the largest size",
    "resumable": "a resumable task does not share its invocations",
    "limited": "jobs that wait in a batch would keep the slots of its limits",
    "lost": "some of its runs were lost, and a lost run loses its whole batch",
    "timeout": "the timeout of a larger batch would be too long",
    "waits": "the last job of a batch would wait longer than target_wait",
    "alone": "few of its messages wait at the same time, so a batch would rarely have more than one",
}
"""Obstacle of a larger batch → its words."""


def saving_line(found: Batching) -> str:
    """The saving of a larger batch, and the messages that it is expected to have."""
    seconds = f"{found.database_seconds_per_million:,.0f} s"
    return (
        f"batch_size={found.advised} would save about ${found.usd_a_month:,.2f} a month: "
        f"${found.usd_per_million:,.2f} and up to {seconds} of PostgreSQL's processor per million jobs, "
        f"{found.share:.0%} of the cost of their runs. From the waits of the last 7 days, an invocation would "
        f"have {found.messages:.1f} messages"
    )


def later_line(found: Batching) -> str:
    """The change of the waits by a larger batch."""
    later, latest = milliseconds(found.later_ms), milliseconds(found.latest_ms)
    return f"a job would start {later} later on average, and the last job of a full batch up to {latest} later"


def batching_line(found: Batching) -> str:
    """The saving of a larger batch with its change of the waits, or why none is advised."""
    if found.obstacle is None:
        return f"{saving_line(found)}; {later_line(found)}."
    little = f"a larger batch would save only {found.share:.1%} of the cost of its runs"
    return f"batch_size={found.batch_size} stays: {NO_BATCH.get(found.obstacle, little)}."
