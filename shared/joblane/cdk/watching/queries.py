"""Saved queries of Logs Insights over the logs of all functions of a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from joblane.cdk.watching.groups import in_groups
from joblane.queues import log_group_name

MAX_LOG_GROUPS = 50
"""Log groups of one query. Source: StartQuery, CloudWatch Logs API reference."""
QUERIES: Mapping[str, str] = {
    "One task": """
fields @timestamp, level, message, task_type, attempt, outcome, ms, error_type, reason, @log
| filter @message like "TASK-ID"
| sort @timestamp asc
| limit 1000
""",
    "One trace": """
fields @timestamp, level, message, task_id, task_type, attempt, span_id, parent_span_id, @log
| filter @message like "TRACE-ID"
| sort @timestamp asc
| limit 1000
""",
    "Failures by fingerprint": """
filter ispresent(fingerprint)
| stats count(*) as failures, count_distinct(task_id) as tasks, latest(task_id) as example, max(@timestamp) as last
    by task_type, error_type, fingerprint
| sort failures desc
| limit 100
""",
    "Slowest runs": """
filter @type = "REPORT"
| fields @duration, @billedDuration, @maxMemoryUsed / 1000000 as used_mb, @memorySize / 1000000 as memory_mb,
    @requestId, @log
| sort @duration desc
| limit 100
""",
    "Lost runs": """
fields @timestamp, @message, @requestId, @log
| filter @message like /Task timed out|Runtime\\.(ExitError|OutOfMemory|ImportModuleError)|signal: killed/
| sort @timestamp desc
| limit 100
""",
    "Refused messages": """
fields @timestamp, reason, queue, message_id, @log
| filter message like "message refused"
| sort @timestamp desc
| limit 100
""",
    "What the sweep found": """
fields @timestamp, message, swept.overdue, swept.sent, swept.unsent, swept.dead_letters, of_type, waits_seconds, tick,
    old_snapshot.seconds, old_snapshot.holder, old_snapshot.end
| filter task_type = "jobs:sweep" and (message = "swept" or level = "ERROR")
| sort @timestamp desc
| limit 100
""",
}
"""Name → query. In the first two, replace the word in capitals by the id to search for.

``@message like`` also finds an id in a batch's list of completed tasks, which has no field of its own.
"""


def queries_of(functions: Sequence[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield name, text and log groups of each saved query.

    With more functions than a query accepts there are several queries: ``One task (1 of 2)``, ``One task (2 of 2)``.
    """
    groups = list(in_groups([log_group_name(function) for function in functions], MAX_LOG_GROUPS))
    for name, query in QUERIES.items():
        for number, some in enumerate(groups, start=1):
            yield (f"{name} ({number} of {len(groups)})" if len(groups) > 1 else name), query.strip(), list(some)
