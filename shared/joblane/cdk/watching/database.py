"""The alarms of a stage's own database: connections, memory, and capacity or storage near their limits.

Its metrics are written each minute. A cluster that pauses writes 0, or nothing, and no alarm fires then.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.database import GIB_OF_UNIT, INSTANCE_GIB, Aurora, Rds
from joblane.cdk.settings.stage import Stage
from joblane.cdk.watching.alarms import Alarm, Metrics, Topic, metric

MINUTE = timedelta(minutes=1)
LONG, SHORT = 15, 5  # minutes
GIB = 1024**3
"""Bytes, as in ``FreeStorageSpace`` and ``FreeableMemory``; ``AllocatedStorage`` is in GiB. Sources: CreateDBInstance,
RDS API reference; RDS, *Amazon CloudWatch instance-level metrics*."""

_limit = partial(Alarm, heading="the-database-reaches-a-limit", is_state=True, period=MINUTE)


def alarms_of_database(monitoring: Monitoring, stage: Stage) -> list[Alarm]:
    """Return the alarms of the stage's own database, or of its restored copy. A database of others has none.

    Sources: Aurora, *Amazon CloudWatch metrics for Amazon Aurora*, *Amazon CloudWatch dimensions for Aurora*, and
    *Performance and scaling for Aurora Serverless v2*.
    """
    match stage.database:
        case Aurora() as database:
            read = partial(metric, "AWS/RDS", period=MINUTE, DBClusterIdentifier=stage.database_id)
            # free at max_capacity, so that it is low only if the writer cannot grow
            free: Metrics = {"free": read("FreeableMemory", "Minimum", Role="WRITER")}
            if database.min_capacity == 0:
                free = {**free, "capacity": read("ServerlessDatabaseCapacity", "Maximum")}
            return [
                _of_capacity(monitoring, database, {"used": read("ACUUtilization", "Maximum")}),
                _of_connections(monitoring, stage, {"used": read("DatabaseConnections", "Maximum")}),
                _of_memory(monitoring, "writer of the database", database.max_capacity * GIB_OF_UNIT, free),
            ]
        case Rds() as database:
            read = partial(metric, "AWS/RDS", period=MINUTE, DBInstanceIdentifier=stage.database_id)
            return [
                _of_storage(monitoring, stage, database, {"free": read("FreeStorageSpace", "Minimum")}),
                _of_connections(monitoring, stage, {"used": read("DatabaseConnections", "Maximum")}),
                _of_memory(
                    monitoring,
                    "database",
                    INSTANCE_GIB[database.instance_class],
                    {"free": read("FreeableMemory", "Minimum")},
                ),
            ]
        case _:
            return []


def _of_capacity(monitoring: Monitoring, database: Aurora, metrics: Metrics) -> Alarm:
    percent = monitoring.database_capacity_percent
    return _limit(
        name="database-capacity",
        says=f"The database has used {percent} % of its max_capacity, {database.max_capacity:g} ACU, or more for "
        f"{LONG} minutes: it cannot grow, so statements become slower.",
        metrics=metrics,
        threshold=percent,
        periods=LONG,
        rings_after=LONG,
    )


def _of_connections(monitoring: Monitoring, stage: Stage, metrics: Metrics) -> Alarm:
    percent = monitoring.database_connections_percent
    return _limit(
        name="database-connections",
        says=f"{percent} % of the {stage.connections} connections of the database are in use, or more. Without a free "
        "one, functions and other programs cannot log in.",
        metrics=metrics,
        threshold=percent if percent == "off" else stage.connections * percent / 100,
        periods=SHORT,
        rings_after=SHORT,
    )


def _of_memory(monitoring: Monitoring, of: str, gib: float, metrics: Metrics) -> Alarm:
    """The alarm of the free memory in ``metrics``, which counts only while a ``capacity`` there is above 0."""
    percent = monitoring.database_memory_percent
    least = percent if percent == "off" else gib * GIB * percent / 100
    return _limit(
        name="database-memory",
        says=f"The {of} has had less than {percent} % of its memory free for {SHORT} minutes, and cannot grow. Without "
        "memory it restarts.",
        metrics=metrics,
        expression=f"IF(capacity > 0, free, {least})" if "capacity" in metrics else "",
        threshold=least,
        below=True,
        periods=SHORT,
        rings_after=SHORT,
    )


def _of_storage(monitoring: Monitoring, stage: Stage, database: Rds, metrics: Metrics) -> Alarm:
    percent = monitoring.database_storage_percent
    return _limit(
        name="database-storage",
        heading="the-storage-is-nearly-full",
        says=f"Less than {percent} % of the storage of the RDS instance {stage.database_id} is free. A full instance "
        "stops.",
        topic=Topic.URGENT,
        metrics=metrics,
        threshold=percent if percent == "off" else database.storage_gb * GIB * percent / 100,
        below=True,
        periods=SHORT,
        rings_after=SHORT,
    )
