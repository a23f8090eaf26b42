"""The expiry of ended tasks: the content is removed when the retention ends, the row when no message can return."""

from __future__ import annotations

from joblane.limits import CONTENT_KEPT_FOR_MESSAGES
from joblane.record.connection import Connection
from joblane.record.states import ARCHIVED_RETENTION, ENDED_SQL

BATCH = 500
"""The most rows per statement."""

# An operator may cancel a task by an UPDATE of `state` alone. This statement sets the other columns of an ended row.
TIDY = f"""
update joblane.tasks t
   set sweep_at = case when ended.is_archived then now() end, finished_at = now(),
       dead_letter_unsent = ended.is_archived,
       expire_at = coalesce(t.expire_at, now() + case
         when ended.is_archived then interval '{ARCHIVED_RETENTION.days} days'
         else make_interval(secs => t.retention_seconds) end)
  from (select id, state = 'archived' and dead_sent_at is null as is_archived from joblane.tasks
         where finished_at is null and state in {ENDED_SQL}
         order by created_at, id limit {BATCH} for update skip locked) as ended
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
