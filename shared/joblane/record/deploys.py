"""The deploys of a stage, which operators see as marks on charts.

The migration of a deploy writes a row, before any function has the new code. The deploy is done once the sweep runs
that code, or the local stack has deployed it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection

KEPT = 1_000
"""Deploys that are kept: the latest."""

WRITE = """
insert into joblane.deploys (version, deployed_by) select $1, $2::text
 where $1 is distinct from (select version from joblane.deploys order by number desc limit 1)
returning number
"""
REMOVE = "delete from joblane.deploys where number <= $1::bigint"
FINISH = """
update joblane.deploys set done_at = clock_timestamp()
 where done_at is null and number = (select max(number) from joblane.deploys where version = $1)
"""
READ = """
select at, version, deployed_by, done_at from joblane.deploys where at >= $1::timestamptz
 order by number desc limit $2::int
"""


@dataclass(frozen=True, slots=True)
class Deploy:
    """A deploy. ``by``: the person who deployed. None: not known. ``done_at`` None: it has not ended."""

    at: datetime
    version: str
    by: str | None
    done_at: datetime | None


def write_deploy(connection: Connection, version: str, by: str | None) -> bool:
    """Write a deploy, unless the latest one has the same version. Return True if it was written."""
    for (number,) in connection.run(WRITE, version, by):
        connection.run(REMOVE, str(number - KEPT))
        return True
    return False


def finish_deploy(connection: Connection, version: str) -> None:
    """Note that the latest deploy of a version is done, unless it was noted before."""
    connection.run(FINISH, version)


def deploys(connection: Connection, since: datetime, most: int) -> tuple[Deploy, ...]:
    """Return the deploys since a time, latest first. ``most``: the largest number of them."""
    return tuple(Deploy(*row) for row in connection.run(READ, since, str(most)))
