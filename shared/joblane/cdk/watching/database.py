"""The alarms of a stage's own Aurora: capacity, connections and memory near their limits.

Its metrics are written each minute. A cluster that pauses writes 0, or nothing, and no alarm fires then.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.database import GIB_OF_UNIT, Aurora
from joblane.cdk.watching.alarms import Alarm, metric
from joblane.names import cluster_name

MINUTE = timedelta(minutes=1)
LONG, SHORT = 15, 5  # minutes
GIB = 1024**3


def alarms_of_database(monitoring: Monitoring, database: Aurora, *, prefix: str, connections: int) -> list[Alarm]:
    """Return the alarms of the cluster of this stage. ``connections``: its ``max_connections``.

    Sources: Aurora, *Amazon CloudWatch metrics for Amazon Aurora*, *Amazon CloudWatch dimensions for Aurora*, and
    *Performance and scaling for Aurora Serverless v2*.
    """
    of_cluster = partial(metric, "AWS/RDS", period=MINUTE, DBClusterIdentifier=cluster_name(prefix))
    alarm = partial(Alarm, heading="the-database-reaches-a-limit", is_state=True, period=MINUTE)
    capacity, memory = monitoring.database_capacity_percent, monitoring.database_memory_percent
    used = monitoring.database_connections_percent
    least = memory if memory == "off" else database.max_capacity * GIB_OF_UNIT * GIB * memory / 100
    # free at max_capacity, so that it is low only if the writer cannot grow
    free = {"free": of_cluster("FreeableMemory", "Minimum", Role="WRITER")}
    if may_pause := database.min_capacity == 0:
        free["capacity"] = of_cluster("ServerlessDatabaseCapacity", "Maximum")
    return [
        alarm(
            name="database-capacity",
            says=f"The database has used {capacity} % of its max_capacity, {database.max_capacity:g} ACU, or more for "
            f"{LONG} minutes: it cannot grow, so statements become slower.",
            metrics={"used": of_cluster("ACUUtilization", "Maximum")},
            threshold=capacity,
            periods=LONG,
            rings_after=LONG,
        ),
        alarm(
            name="database-connections",
            says=f"{used} % of the {connections} connections of the database are in use, or more. Without a free one, "
            "functions and other programs cannot log in.",
            metrics={"used": of_cluster("DatabaseConnections", "Maximum")},
            threshold=used if used == "off" else connections * used / 100,
            periods=SHORT,
            rings_after=SHORT,
        ),
        alarm(
            name="database-memory",
            says=f"The writer of the database has had less than {memory} % of its memory free for {SHORT} "
            "minutes, and cannot grow. Without memory it restarts.",
            metrics=free,
            expression=f"IF(capacity > 0, free, {least})" if may_pause else "",
            threshold=least,
            below=True,
            periods=SHORT,
            rings_after=SHORT,
        ),
    ]
