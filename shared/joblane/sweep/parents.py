"""The tasks that wait for parents which have ended, because the process that ended the last one died too early.

A parent may also have been ended, or its row deleted, by SQL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

from joblane.enqueue.follow_up import FollowUp
from joblane.record.row.conditions import (
    BATCH_IS_GONE,
    MOST_RELEASED,
    PARENT_CANCELS,
    PARENT_LETS_GO,
    WAITS_FOR_PARENTS,
)
from joblane.record.row.transitions import CANCELLED_BY_BATCH, assignments
from joblane.sweep.duties import Duties
from joblane.sweep.sends import Sends

ENDED_PARENTS = "ended parents"
PAGE = 5_000
"""The most rows that one statement reads."""
KEPT = "interval '120 days'"
"""A batch is kept longer than ended members: archived tasks are kept for 90 days, and each row 24 days longer."""

ENDED = f"""
with page as materialized (
  select e.child, e.parent, e.parent_batch, e.on_parent_dead from joblane.task_parents e
   where (e.child, e.parent, e.parent_batch) > ($1, $2, $3) order by e.child, e.parent, e.parent_batch limit {PAGE}
)
select (select pg_catalog.json_agg(distinct e.parent) from page e
         where {PARENT_LETS_GO} or (select {PARENT_CANCELS} from (select) as one
                                      left join joblane.tasks p on p.id = e.parent)),
       (select pg_catalog.json_agg(distinct e.child) from page e
         where (select c.finished_at is null from joblane.tasks c where c.id = e.child) is not true),
       (select pg_catalog.json_agg(distinct e.child) from page e where {BATCH_IS_GONE}),
       last.child, last.parent, last.parent_batch, (select count(*) from page)
  from (select * from page order by child desc, parent desc, parent_batch desc limit 1) as last
"""
"""The parents that have ended, the children that have, and the callbacks whose batch is gone, from a page of the rows
of ``task_parents``."""
FORGET_PARENTS = """
delete from joblane.task_parents where ctid = any(array(
  select ctid from joblane.task_parents
   where child = any($1::text[])
     and (child, parent, parent_batch) > ($2, $3, $4) and (child, parent, parent_batch) <= ($5, $6, $7)
     for update skip locked))
"""
"""It deletes no more rows than the page has: the callback of a batch has a row for each member."""
CANCEL_CALLBACKS = f"""
with lost as materialized (
  select t.id, e.parent_batch from joblane.task_parents e,
         lateral (select t.id from joblane.tasks t where t.id = e.child and {WAITS_FOR_PARENTS}
                     for no key update skip locked) as t
   where e.child = any($1::text[]) and e.parent = '' and {BATCH_IS_GONE}
)
update joblane.tasks t set {assignments(CANCELLED_BY_BATCH)} from lost where t.id = lost.id returning t.id
"""
HELD = f"""
with page as materialized (
  select t.id, t.place, t.state from joblane.tasks t
   where t.wait_kind = 'parents' and t.waits_for is null and t.place > $1::float8
   order by t.waits_for, t.place limit {PAGE}
)
select (select pg_catalog.json_agg(page.id) from page
         where page.state = 'held'
           and (select true from joblane.task_parents e where e.child = page.id limit 1) is null),
       (select max(place) from page), (select count(*) from page)
"""
"""The tasks of a page that wait for no parent any more. Tasks with the same place at the end of a page are left to the
next sweep."""
FORGET_BATCHES = f"""
delete from joblane.batches b
 where b.created_at < clock_timestamp() - {KEPT}
   and (b.sealed_at is null
        or (select true from joblane.tasks t
             where t.id = any (array[b.on_end, b.on_success]) and t.finished_at is null limit 1) is null)
"""
"""A batch that is not sealed is forgotten, which cancels its callbacks. A sealed one whose callbacks wait has members,
due in a year for example, and a member may add others."""


class Parents:
    """Releases tasks. ``released``: the tasks that may start now."""

    def __init__(self, prefix: str, sends: Sends, duties: Duties) -> None:
        self.released = 0
        self._prefix, self._sends, self._duties = prefix, sends, duties

    def steps(self) -> Iterator[None]:
        """Release in batches. It may be stopped after each step."""
        connection = self._sends.connection
        connection.run(FORGET_BATCHES)
        position, number = ("", "", ""), PAGE
        while number == PAGE and (rows := connection.run(ENDED, *position)):
            ((ended, ended_children, without_batch, *last, number),) = rows
            if ended_children:
                connection.run(FORGET_PARENTS, ended_children, *position, *last)
            position = tuple(last)
            yield from self._release(without_batch or (), self._cancel)
            yield from self._release(ended or (), lambda ids: FollowUp(ended=[*ids]))
        place, number = "-infinity", PAGE
        while number == PAGE:
            ((children, last_place, number),) = connection.run(HELD, place)
            place = str(last_place)
            yield from self._release(children or (), lambda ids: FollowUp(children=[*ids]))

    def _release(self, ids: Sequence[str], follow_up: Callable[[Sequence[str]], FollowUp]) -> Iterator[None]:
        """Release in batches of tasks, each with its own errors."""
        if ids:
            self._sends.following.is_due = True
        batches = (ids[start : start + MOST_RELEASED] for start in range(0, len(ids), MOST_RELEASED))
        yield from self._duties.run_batches(ENDED_PARENTS, partial(self._steps, follow_up), batches)
        yield

    def _cancel(self, callbacks: Sequence[str]) -> FollowUp:
        return FollowUp(ended=[id_ for (id_,) in self._sends.connection.run(CANCEL_CALLBACKS, list(callbacks))])

    def _steps(self, follow_up: Callable[[Sequence[str]], FollowUp], ids: Sequence[str]) -> Iterator[None]:
        for number in self._sends.follow(self._prefix, follow_up(ids)):
            self.released += number
            yield
