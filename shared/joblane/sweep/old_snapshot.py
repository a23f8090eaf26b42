"""The oldest snapshot that keeps dead rows: of a session, a prepared transaction, a standby or a replication slot.

PostgreSQL removes no row version that an open snapshot may still read, so each statement has more versions to walk.
A role without special rights sees which transaction each snapshot reaches back to (``backend_xmin``), but not since
when (``xact_start``); replication slots and standbys have no time at all. So the time is taken from the sweeps: each
has left a row whose transaction and time are known. If a snapshot reaches back to the transaction of a sweep, it keeps
all rows that died since that sweep. This finds no transaction that is old but has a new snapshot for each statement.

Source: PostgreSQL, ``ComputeXidHorizons`` in ``procarray.c``, and ``pg_stat_get_activity`` in ``pgstatfuncs.c``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from joblane.enqueue.wake import WOKEN
from joblane.names import SWEEP
from joblane.record.driver.connection import Connection
from joblane.record.task_types import literal

OLD = timedelta(minutes=15)
"""The longest run of a Lambda function. A younger snapshot may be that of a task's own transaction."""
SWEEPS = 288
"""The sweeps whose times are read: those of most of a day if one runs every five minutes. An older snapshot has the age
of the first of them. Sweeps that were woken at once are left out: there may be one every five seconds."""
SESSION, PREPARED, STANDBY, SLOT = "session", "prepared transaction", "standby", "replication slot"

IS_AURORA = "select to_regproc('pg_catalog.aurora_replica_status') is not null"
# A reader of Aurora shares the storage of the writer, and its snapshots keep rows there too. Source: Aurora,
# *aurora_replica_status*, and *Managing long-running queries on readers*.
READERS = f"""
  union all
  select age(feedback_xmin::text::xid), false, '{STANDBY}', server_id::text, null, null, null, null
    from pg_catalog.aurora_replica_status()
   where session_id <> 'MASTER_SESSION_ID' and feedback_xmin::text <> '0'
     and last_update_timestamp > clock_timestamp() - interval '5 minutes'
"""
# `back`: the transactions that began since the oldest one that the snapshot may not know as ended. An open transaction
# that has written is in the snapshots of all sessions, in every database of the server, so that it is their cause;
# snapshots of another database, in contrast, keep no row of this one. A vacuum's snapshot keeps no rows. A lost slot
# keeps none either. A session without a database is that of a standby with hot_standby_feedback.
READ = f"""
with sweeps as materialized (
  select age(t.xmin) as back, t.finished_at
    from joblane.tasks t where t.type = $1 and t.finished_at is not null and not starts_with(t.id, '{WOKEN}')
   order by t.created_at desc, t.id desc limit {SWEEPS}
),
snapshots (back, has_written, holder, name, pid, "user", database, state) as (
  select case when datname is null or datname = current_database()
              then greatest(age(backend_xid), age(backend_xmin)) else age(backend_xid) end,
         backend_xid is not null and age(backend_xid) >= coalesce(age(backend_xmin), 0),
         case when datname is null then '{STANDBY}' else '{SESSION}' end,
         application_name, pid, usename::text, datname::text, state
    from pg_stat_activity
   where pid <> pg_backend_pid() and pid not in (select pid from pg_stat_progress_vacuum)
  union all
  select age(transaction), true, '{PREPARED}', gid, null, owner::text, database::text, null from pg_prepared_xacts
  union all
  select age(xmin), false, '{SLOT}', slot_name::text, active_pid, null, null,
         case when active then 'active' else 'inactive' end
    from pg_replication_slots where wal_status is distinct from 'lost'
  @readers
),
oldest as (
  select * from snapshots where back is not null order by back desc, has_written desc, pid limit 1
)
select kept.seconds, o.holder, o.name, o.pid, o."user", o.database, o.state
  from oldest o,
       lateral (select extract(epoch from clock_timestamp() - min(s.finished_at))::float8 as seconds
                  from sweeps s where s.back <= o.back) as kept
 where kept.seconds >= {OLD.total_seconds():.0f}
"""


@dataclass(frozen=True, slots=True)
class OldSnapshot:
    """A snapshot older than :data:`OLD`, and its holder.

    ``seconds``: since the first sweep whose rows it keeps, so the snapshot is older by up to the time between two
    sweeps. ``holder``: ``session``, ``prepared transaction``, ``standby`` or ``replication slot``. ``name``: the
    session's or standby's ``application_name``, the transaction's ``gid``, the slot's name, or the id of an Aurora
    reader. ``pid``, ``user`` and ``database``: None if the holder has none. ``state``: of a session as in
    ``pg_stat_activity``; ``active`` or ``inactive`` for a slot; None: this role may not see it, or there is none.
    """

    seconds: int
    holder: str
    name: str
    pid: int | None
    user: str | None
    database: str | None
    state: str | None

    @property
    def text(self) -> str:
        """The holder, for people: ``session 4711 (user app, database app, application pg_dump, active)``."""
        number = f" {self.pid}" if self.holder == SESSION else ""
        name = f"{'application' if self.holder == SESSION else 'name'} {self.name}" if self.name else ""
        user, database = self.user and f"user {self.user}", self.database and f"database {self.database}"
        return f"{self.holder}{number} ({', '.join(part for part in (user, database, name, self.state) if part)})"

    @property
    def end(self) -> str:
        """The way to end it: a statement, or what to do on another server."""
        if self.holder == SESSION:
            return f"select pg_terminate_backend({self.pid})"
        if self.holder == PREPARED:
            return f"rollback prepared {literal(self.name)}, or commit prepared, in database {self.database}"
        on_standby = "end the old transaction on the standby, which pg_stat_activity there shows"
        if self.holder == STANDBY or self.state == "active":
            return on_standby
        return f"start its standby again, or: select pg_drop_replication_slot({literal(self.name)})"

    def document(self) -> dict[str, Any]:
        """Return the fields, and ``end``, for a log line."""
        return asdict(self) | {"end": self.end}


def old_snapshot(connection: Connection) -> OldSnapshot | None:
    """Return the oldest snapshot of other sessions that keeps dead rows of this database; None: none older than
    :data:`OLD`, or the sweeps have not run for so long.

    Raises pg8000's errors: a role may lack the rights on views that PostgreSQL opens to everyone.
    """
    [[is_aurora]] = connection.run(IS_AURORA)
    for seconds, *holder in connection.run(READ.replace("@readers", READERS if is_aurora else ""), SWEEP):
        return OldSnapshot(int(seconds), *holder)
    return None
