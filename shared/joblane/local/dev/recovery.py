"""Statements for what a local process leaves in the database: queues in memory are lost with the command, and a run
with its process. The leases of lost runs end here, since otherwise their tasks would wait until the function's timeout.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from joblane.record.driver.connection import Connection
from joblane.record.row.transitions import UNSENT_SWEEP
from joblane.sqs.client import Entry, Sqs
from joblane.sweep.next_sweep import NextSweep, plan
from joblane.sweep.sweep import sweep

INVOKED = "jobs invoke"
"""``request_id`` of a run by `joblane invoke`, which is a process of its own."""

NO_PLAN = "update joblane.stage set planned_sweep_at = null"
LOST_MESSAGES = f"""
update joblane.tasks t set sweep_at = {UNSENT_SWEEP.format(due="t.due_at")}
 where t.finished_at is null and t.state in ('scheduled', 'pending', 'retry') and t.sweep_at >= t.due_at
"""
LEASES = """
update joblane.tasks t set lease_until = clock_timestamp(), sweep_at = clock_timestamp()
  from joblane.task_attempts a
 where t.finished_at is null and t.state = 'active' and t.lease_until > clock_timestamp()
   and a.task_id = t.id and a.run = t.runs and {which}
returning t.id
"""
ALL_LEASES = LEASES.format(which=f"a.request_id <> '{INVOKED}'")
LEASES_OF_RUN = LEASES.format(which="a.request_id = $1")


class Collected(Sqs):
    """Accepts all messages, for the command to send."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[Entry] = []

    def send(self, entry: Entry) -> str:
        self.entries.append(entry)
        return "collected"

    def send_many(self, entries: Sequence[Entry], *, brief: bool = False) -> dict[int, str]:
        self.entries += entries
        return {}

    def attributes(self, queue: str, names: Sequence[str]) -> Mapping[str, str]:
        """Every queue is empty."""
        return dict.fromkeys(names, "0")


def recover(connection: Connection, prefix: str) -> list[Entry]:
    """Return the messages of all tasks that are due within 15 minutes, and of the next sweep: no queue has one, and no
    task runs."""
    connection.run(NO_PLAN)
    connection.run(LOST_MESSAGES)
    connection.run(ALL_LEASES)
    collected, following = Collected(), NextSweep()
    sweep(connection, collected, prefix, following=following)
    plan(connection, collected, prefix, following)
    return collected.entries


def end_leases(connection: Connection, request_id: str) -> list[str]:
    """End the leases of an invocation whose process has ended. Return the ids of its tasks that had not ended."""
    return [id_ for (id_,) in connection.run(LEASES_OF_RUN, request_id)]
