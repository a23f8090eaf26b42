"""Limits with waiting tasks whose times another rate has given, or which are more than the tasks need."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from joblane.record.row.conditions import UNUSED_SECONDS
from joblane.record.row.states import LEVELS
from joblane.record.sql_functions import VERSION

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

LOOKED_AT = 1000
"""The limits that one statement checks."""


def _number_timed(number: int) -> str:
    level = LEVELS[number]
    return f"""(select count(*) from joblane.tasks t
      where t.{level.column} = r.name and t.passed = '{level.time}' and t.state in ('pending', 'retry')
        and t.used_ms = 0 and t.due_at > clock_timestamp())"""


# The first limits of a range, with their names again if their times are wrong: another rate has given them, or they are
# more than those of the tasks that wait for them and of the burst.
PLANNED_ANEW = f"""
select r.name, case when r.next_at > clock_timestamp()
                     and ((r.step, r.burst) is distinct from (l.step, l.burst)
                       or r.next_at > greatest(clock_timestamp(), r.delayed_until) + interval '{UNUSED_SECONDS} s'
                                      + coalesce(l.step * (l.burst + case when r.name like '%/%' then {_number_timed(1)}
                                                                          when r.name like '%:%' then {_number_timed(2)}
                                                                          else {_number_timed(3)} end)::float8, '0'))
                    then r.name end
  from (select * from joblane.rates x where x.name > $1 and (x.name < $2 or $2 is null)
         order by x.name limit {LOOKED_AT}) as r,
       lateral joblane.limit_of_{VERSION}(r.name) as l
 order by r.name
"""


def wrong_times(connection: Connection, after: str = "", before: str | None = None) -> Iterator[list[str]]:
    """Yield the limits in a range whose times are not those of the rate in force, among each :data:`LOOKED_AT`."""
    while rows := connection.run(PLANNED_ANEW, after, before):
        yield [name for _, name in rows if name is not None]
        if len(rows) < LOOKED_AT:
            return
        after = rows[-1][0]
