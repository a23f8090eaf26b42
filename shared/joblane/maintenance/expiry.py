"""The expiry of ended tasks: the content is removed when the retention ends, the row when no message can return."""

from __future__ import annotations

from joblane.limits import CONTENT_KEPT_FOR_MESSAGES
from joblane.record.connection import Connection
from joblane.record.states import ENDED, ENDED_SQL, State, in_sql

BATCH = 500
"""The most rows per statement."""

# An operator may cancel a task by an UPDATE of `state` alone. This statement sets the other columns of an ended row.
TIDY = f"""
update joblane.tasks t
   set sweep_at = null, finished_at = coalesce(t.finished_at, now()),
       expire_at = coalesce(t.expire_at, now() + make_interval(secs => t.retention_seconds))
  from (select id from joblane.tasks
         where sweep_at <= now() and state in {in_sql(ENDED - {State.ARCHIVED})}
         order by sweep_at limit {BATCH} for update skip locked) as ended
 where t.id = ended.id
returning t.id
"""

# The content is removed when the retention ends. The row is deleted when none of its messages can return.
EXPIRE = f"""
with due as (
  select id, cleared from joblane.tasks
   where expire_at <= now() and state in {ENDED_SQL}
   order by expire_at limit {BATCH} for update skip locked
),
cleared as (
  update joblane.tasks t
     set payload = null, result = null, headers = '{{}}', cleared = true,
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
progress as (
  delete from joblane.task_progress p using due where p.task_id = due.id
),
ended_bulks as (
  delete from joblane.bulks b using deleted where b.id = deleted.id
)
select (select count(*) from cleared), (select count(*) from deleted)
"""


def tidy(connection: Connection) -> int:
    """Complete up to :data:`BATCH` rows that were cancelled by SQL. Return their number."""
    return len(connection.run(TIDY))


def expire(connection: Connection) -> tuple[int, int]:
    """Clear or delete up to :data:`BATCH` expired rows. Return the number of cleared rows and of deleted rows."""
    cleared, removed = connection.run(EXPIRE)[0]
    return cleared, removed
