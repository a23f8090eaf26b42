"""The alarm of an RDS instance whose storage is nearly full. An Aurora cluster grows by itself."""

from __future__ import annotations

from joblane.cdk.settings.apis import Monitoring
from joblane.cdk.settings.database import Rds
from joblane.cdk.settings.stage import Stage
from joblane.cdk.watching.alarms import Alarm, Topic, metric

GIB = 2**30
"""Bytes. ``AllocatedStorage`` is in GiB, and ``FreeStorageSpace`` in bytes. Source: CreateDBInstance, RDS API
reference, and RDS, *Amazon CloudWatch instance-level metrics*."""


def storage_alarms(monitoring: Monitoring, stage: Stage) -> list[Alarm]:
    """Return the alarm of the instance that the stage uses: its own or a restored copy. Another database has none."""
    database, percent = stage.database, monitoring.storage_free_percent
    if not isinstance(database, Rds):
        return []
    own = f"{stage.prefix}-database"
    used = database.restored.host.partition(".")[0] if database.restored else own
    return [
        Alarm(
            name="storage",
            heading="the-storage-is-nearly-full",
            says=f"Less than {percent} % of the storage of the RDS instance {used} is free. A full instance stops.",
            topic=Topic.URGENT,
            is_state=True,
            metrics={"free": metric("AWS/RDS", "FreeStorageSpace", "Minimum", DBInstanceIdentifier=used)},
            threshold="off" if percent == "off" else database.storage_gb * GIB * percent / 100,
            below=True,
        )
    ]
