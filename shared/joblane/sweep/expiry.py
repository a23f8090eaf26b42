"""The expiry of ended tasks: the content is removed when the retention ends, the row when no message can return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pg8000.exceptions import DatabaseError

from joblane.errors import sqlstate
from joblane.quotas import CONTENT_KEPT_FOR_MESSAGES
from joblane.record.driver.connection import TIMED_OUT, Connection
from joblane.record.row.states import ENDED_SQL
from joblane.record.row.transitions import ARCHIVED_EXPIRES, NO_LIMITS, RETENTION_EXPIRES, assignments
from joblane.record.task.row_by_row import LOCKED, leaving_a_slow_row, run_rows
from joblane.sweep.duties import SMALLER

BATCH = 500
"""The most rows per statement."""

# An operator may end a task by an UPDATE of `state` alone. This statement sets the other columns of an ended row.
TIDY = f"""
update joblane.tasks t
   set finished_at = now(), {assignments(NO_LIMITS)},
       expire_at = coalesce(t.expire_at, case t.state when 'archived' then {ARCHIVED_EXPIRES}
                                                      else {RETENTION_EXPIRES} end),
       dead_letter_unsent = t.state = 'archived' and t.dead_sent_at is null,
       reason = coalesce(t.reason, case when t.state <> 'completed' then 'ended by an update of its row' end),
       sweep_at = case when t.state = 'archived' and t.dead_sent_at is null then now() end
  from ({LOCKED.format(columns="t.id", condition=f"t.finished_at is null and t.state in {ENDED_SQL}")}) as ended
 where t.id = ended.id
returning t.id
"""

FIND = f"""
select id from joblane.tasks where expire_at <= now() and state in {ENDED_SQL} order by expire_at limit $1::integer
"""
# The content is removed when the retention ends. The row is deleted when none of its messages can return.
EXPIRE = f"""
with due as materialized (
  {LOCKED.format(columns="t.id, t.cleared", condition=f"t.expire_at <= now() and t.state in {ENDED_SQL}")}
),
cleared as (
  update joblane.tasks t
     set payload = null, result = null, headers = '{{}}', cleared = true, fingerprint = null,
         expire_at = greatest(t.finished_at + interval '{CONTENT_KEPT_FOR_MESSAGES.days} days', clock_timestamp())
    from due where t.id = due.id and not due.cleared
  returning t.id
),
deleted as (
  delete from joblane.tasks t using due where t.id = due.id and due.cleared returning t.id
),
attempts as (
  delete from joblane.task_attempts a using deleted where a.task_id = deleted.id
),
items as (
  delete from joblane.task_items i using due where i.task_id = due.id
),
cursors as (
  delete from joblane.task_cursors c using due where c.task_id = due.id
),
steps as (
  delete from joblane.task_steps s using due where s.task_id = due.id
),
waits as (
  delete from joblane.task_waits w using due where w.task_id = due.id
),
signals as (
  delete from joblane.task_signals g using due where g.task_id = due.id
),
progress as (
  delete from joblane.task_progress p using due where p.task_id = due.id
),
parents as (
  delete from joblane.task_parents e using deleted where e.child = deleted.id
),
children as (
  delete from joblane.task_children c using deleted where c.parent = deleted.id
),
ended_bulks as (
  delete from joblane.bulks b using deleted where b.id = deleted.id
)
select (select count(*) from cleared), (select count(*) from deleted)
"""


def tidy(connection: Connection, ids: Sequence[str]) -> None:
    """Complete the rows of tasks that were ended by SQL."""
    for start in range(0, len(ids), BATCH):
        run_rows(connection, TIDY, ids[start : start + BATCH])


@dataclass
class Expiry:
    """Clears and deletes expired rows. ``cleared`` and ``removed``: their numbers."""

    connection: Connection
    cleared: int = 0
    removed: int = 0

    def steps(self) -> Iterator[None]:
        """Clear and delete in batches. It may be stopped after each step."""
        size = BATCH
        while ids := [id_ for (id_,) in self.connection.run(FIND, size)]:
            done = 0
            try:
                with leaving_a_slow_row(self.connection, ids):
                    for cleared, removed in run_rows(self.connection, EXPIRE, ids):
                        self.cleared += cleared
                        self.removed += removed
                        done += cleared + removed
            except DatabaseError as error:
                if sqlstate(error) != TIMED_OUT or len(ids) == 1:
                    raise
                size = max(1, len(ids) // SMALLER)  # a task may have any number of items, steps and children
                yield
                continue
            yield
            if len(ids) < size or not done:  # none: another sweep has locked these rows
                return
