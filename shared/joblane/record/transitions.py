"""TODO doc."""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.record.states import LIVE

if TYPE_CHECKING:
    pass


CANCELLED = """
    state = case when t.state = 'active' then t.state else 'cancelled' end,
    cancel_requested_at = coalesce(t.cancel_requested_at, clock_timestamp()),
    reason = case when t.state = 'active' then t.reason when t.runs = 0 then 'cancelled before it ran'
                  else 'cancelled while it waited' end,
    finished_at = case when t.state = 'active' then null else clock_timestamp() end,
    sweep_at = case when t.state = 'active' then t.sweep_at end,
    expire_at = case when t.state <> 'active'
                     then clock_timestamp() + make_interval(secs => t.retention_seconds) end
"""
"""What becomes of a live row: a task that waits never runs; one that runs is told at its next check, or at its end."""

CANCEL = f"update joblane.tasks t set {CANCELLED} where id = $1 and state in {LIVE} returning state"
