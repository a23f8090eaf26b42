"""The walk over the live tasks: it reads each of them once per sweep, oldest first, and writes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field

from joblane.names import SWEEP, lane_name
from joblane.record.driver.connection import Connection
from joblane.record.row.conditions import HAS_IDLE_SLOT, UNPAUSED
from joblane.record.row.states import ENDED, LIVE_SQL, WAITING, State, in_sql
from joblane.record.sql_functions import VERSION
from joblane.sweep.next_sweep import NextSweep

PAGE = 10_000
"""The most rows that one statement reads."""
WINDOW = 50_000
"""The number of due tasks at which the walk stops until they are sent. Their ids are kept in memory."""
STUCK_AFTER_MINUTES = 10
"""The sweep finds a lost run 15 s after the lease's end at the earliest, and by the second sweep after it at the
latest."""
LATE_TURN_SECONDS = 30
"""A task with a slot of a limit gets another message this long after its ``sweep_at``, even if the lane seems to hold
its message: other tasks wait for the slot. Each further wait is four times as long. With a sweep every five minutes
the first message comes within seven minutes."""
PLANNING = (
    "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off; set enable_hashjoin = off;"
    " set enable_mergejoin = off; set jit = off; set plan_cache_mode = force_generic_plan"
)
"""Settings with which the sweep's statements have one plan each, whatever the statistics of the tables."""
RESET_PLANNING = (
    "reset enable_seqscan; reset enable_bitmapscan; reset enable_sort; reset enable_hashjoin; reset enable_mergejoin;"
    " reset jit; reset plan_cache_mode"
)

# A task with nothing but the time of a rate keeps nobody waiting, and a lane may be behind with any number of them.
HAS_SLOTS = f"""(t.ordered is true or exists (
    select from pg_catalog.unnest(array[t.key_limit, t.total_limit, t.shared_limit]) as n(name),
           lateral joblane.limit_of_{VERSION}(n.name) as l
     where n.name is not null and l.slots is not null))"""
# The next page continues after the page's last row. This row is in the first group of the answer, and is the last that
# `array_agg` has read: PLANNING prevents a sort, so rows are aggregated in the order of the index. A task has no
# message while its `sweep_at` is before its `due_at`.
READ = f"""
select type, queue, max(created_at)::text, (pg_catalog.array_agg(id))[count(*)], count(*),
       count(*) filter (where state = 'active'
                           or (state <> 'held' and sweep_at >= due_at and sweep_at > now())),
       count(*) filter (where sweep_at <= now() and state in {LIVE_SQL}),
       pg_catalog.json_agg(pg_catalog.json_build_array(
           id, state in ('active', 'held') or sweep_at < due_at,
           (extract(epoch from now()) - extract(epoch from sweep_at))::float8,
           case when state <> 'active' then (extract(epoch from now()) - extract(epoch from due_at))::float8 end,
           lease_until < now() - interval '{STUCK_AFTER_MINUTES} minutes',
           passed is not null and sweep_at < now() - interval '{LATE_TURN_SECONDS} s'
                                            * pg_catalog.power(4::float8, least(sends, 10)::float8)
             and {HAS_SLOTS}))
         filter (where sweep_at <= now() and state in {LIVE_SQL} and {UNPAUSED}),
       pg_catalog.json_agg(id) filter (where state in {in_sql(ENDED)}),
       pg_catalog.json_agg(id) filter (where passed is not null and {HAS_IDLE_SLOT} and not ({UNPAUSED})),
       max((extract(epoch from now()) - extract(epoch from due_at))::float8)
         filter (where sends > 1 and sweep_at > now() and state in {in_sql(WAITING - {State.HELD})}
                   and due_at < now() and {UNPAUSED}),
       extract(epoch from min(sweep_at) filter (where sweep_at > now()))::float8
  from (select id, created_at, type, queue, tenant, state, due_at, sweep_at, lease_until, sends, passed,
               key_limit, total_limit, shared_limit, ordered, wait_kind
          from joblane.tasks
         where finished_at is null and (created_at, id) > ($1::timestamptz, $2)
         order by created_at, id limit {PAGE}) as t
 group by type, queue
 order by max(created_at) desc, 4 desc
"""


@dataclass
class Lane:
    """The live tasks of one lane that the walk has read since its last stop: of one type, or of the types of a place.

    ``name``: of the SQS queue. ``is_sweeps``: it is the lane of the sweep's own runs. ``covered``: tasks that need
    nothing now and presumably have a message in the lane. ``unsent``: ids of due tasks whose message nobody has sent,
    of lost runs, whose message may stay hidden for hours, and of tasks with a late turn, which count as ``covered``
    too. ``unclaimed``: due tasks that presumably have a message: the seconds since they became due for the sweep, and
    the id.
    """

    name: str
    is_sweeps: bool
    covered: int = 0
    unsent: list[str] = field(default_factory=list)
    unclaimed: list[tuple[float, str]] = field(default_factory=list)

    @property
    def due(self) -> int:
        return len(self.unsent) + len(self.unclaimed)


@dataclass
class Walk:
    """The state of a walk. ``ended``: ids of tasks of the last page that were ended by hand. ``idle``: ids of its
    paused tasks with slots of limits. ``paused``: due tasks that are paused.

    ``waits``: type → longest wait in seconds, of the tasks that are due, not started and not paused; ``overdue``: the
    number of those that the sweep has not sent again. ``stuck``: runs whose lease ended :data:`STUCK_AFTER_MINUTES` ago
    and that are not paused. ``following`` gets the least ``sweep_at`` in the future.
    """

    connection: Connection
    prefix: str
    following: NextSweep = field(default_factory=NextSweep)
    ended: list[str] = field(default_factory=list)
    idle: list[str] = field(default_factory=list)
    waits: dict[str, int] = field(default_factory=dict)
    overdue: int = 0
    paused: int = 0
    stuck: int = 0
    is_over: bool = False
    _lanes: dict[str, Lane] = field(default_factory=dict)
    _position: tuple[str, str] = ("-infinity", "")

    def read(self) -> None:
        """Read one page."""
        self.ended, self.idle = [], []
        rows = self.connection.run(READ, *self._position)
        if rows:
            self._position = (rows[0][2], rows[0][3])
        self.is_over = sum(row[4] for row in rows) < PAGE
        for type_, queue, _, _, _, covered, due, found, ended, idle, sent_again, next_at in rows:
            name = lane_name(self.prefix, queue, type_)
            lane = self._lanes.setdefault(name, Lane(name, type_ == SWEEP))
            lane.covered += covered
            self.paused += due - len(found or ())
            self.ended += ended or ()
            self.idle += idle or ()
            for id_, is_unsent, age, late, is_stuck, is_late_turn in found or ():
                if is_unsent or is_late_turn:
                    lane.unsent.append(id_)
                    lane.covered += not is_unsent
                else:
                    lane.unclaimed.append((age, id_))
                self.stuck += bool(is_stuck)
                if late is not None and late >= 0:
                    self.overdue += 1
                    self._wait(type_, late)
            if sent_again is not None:
                self._wait(type_, sent_again)
            if type_ != SWEEP:  # the lane has the messages of the sweep's own runs
                self.following.add(next_at)

    def _wait(self, type_: str, seconds: float) -> None:
        self.waits[type_] = max(self.waits.get(type_, 0), int(seconds))

    @property
    def is_full(self) -> bool:
        """True if tasks have to be sent before the walk continues."""
        return self.is_over or sum(lane.due for lane in self._lanes.values()) >= WINDOW

    def take(self) -> list[Lane]:
        """Return the lanes read since the last call, those with the fewest due tasks first."""
        lanes, self._lanes = self._lanes, {}
        return sorted(lanes.values(), key=lambda lane: lane.due)
