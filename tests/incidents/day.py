"""A believable day of the platform with one trouble, for the picture of the page in the documentation."""

from __future__ import annotations

from typing import Any

from tests.builders.rows import In
from tests.incidents.platform import MINUTE, copies, healthy, invoice_charge
from tests.integration.inspector.scene import Scene

DOWN_FOR = 14
"""Minutes for which the receipts service has been unavailable."""
RUNS = """
insert into joblane.task_attempts (task_id, run, attempt, generation, started_at, finished_at, type, queue, tenant,
                                   outcome, duration_ms, wait_ms, error_type, error_message, fingerprint)
select type || '-' || minute || '-' || n, 1, 1, 0, at, at + ms * interval '1 ms', type, queue, 'tenant-' || n % 9,
       case when fails then 'failed' else 'completed' end, ms, round(wait * (0.4 + dice ^ 6 * 3)),
       case when fails then $1 end, case when fails then $2 end, case when fails then $3 end
  from (values ('mail:send', 'default', 42, 310, 240), ('invoice:charge', 'critical', 14, 620, 120),
               ('webhook:deliver', 'default', 65, 180, 900), ('image:resize', 'low', 9, 2400, 1500),
               ('import:row', 'low', 28, 45, 2100), ('data:export', 'low', 3, 8200, 700),
               ('account:sync', 'default', 11, 260, 180)) as types (type, queue, rate, took, wait),
       generate_series(0, 62) as minute,
       lateral generate_series(1, round(rate * (1 + 0.3 * sin(minute / 9.0 + rate) + 0.2 * sin(minute * 2.3)))::int) n,
       lateral (select (hashtext(type || minute || '-' || n) & 1023) / 1023.0 as dice) as dices,
       lateral (select now() - minute * interval '1 min' - dice * interval '50 s' - interval '8 s' as at,
                       (took * (0.5 + dice))::int as ms,
                       type = 'invoice:charge' and minute < $4::int and dice < 0.82 as fails) as runs
"""
ERROR = ("ConnectionError", "receipts.example.org: no route to host", "a3ae26125ca48be4")


def day(on: Scene) -> None:
    """Runs of all types in the last hour. The receipts service is down, so that invoices retry."""
    healthy(on).sql("delete from joblane.tasks where id like 'declined%' or id like 'well%'")
    on.sql("delete from joblane.task_attempts")
    on.sql(RUNS, *ERROR, str(DOWN_FOR))
    since = In(-DOWN_FOR * MINUTE)
    error: dict[str, Any] = dict(zip(("error_type", "error_message", "fingerprint"), ERROR, strict=True))
    waits = {"state": "retry", "attempts": 3, "runs": 3, "created_at": since, "due_at": In(2 * MINUTE)}
    on.put("invoice", invoice_charge, queue="critical", sweep_at=In(60 * MINUTE), **waits, **error)
    copies(on, "invoice", 37)
