"""Saved queries of Logs Insights over the logs of all functions of a stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from joblane.cdk.watching.alarms import in_groups
from joblane.names import log_group_name

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
| stats count(*) as failures, count_distinct(task_id) as tasks, latest(task_id) as example, latest(@timestamp) as last
    by task_type, error_type, fingerprint
| sort failures desc
| limit 100
""",
    "Failures by tenant": """
filter ispresent(tenant) and outcome in ["failed", "timeout", "archived", "rate_limited"]
| stats count(*) as failures, count_distinct(task_id) as tasks, latest(task_id) as example, latest(@timestamp) as last
    by tenant, task_type, outcome
| sort failures desc
| limit 100
""",
    "Failed runs of a type over time": """
filter task_type = "TYPE" and ispresent(Started)
| fields coalesce(Retried, 0) as retried_runs, coalesce(Archived, 0) as archived_runs
| stats sum(Started) as runs, sum(retried_runs) as retried, sum(archived_runs) as archived,
    100 * (sum(retried_runs) + sum(archived_runs)) / sum(Started) as failed_percent by bin(5m)
""",
    "Slowest runs": """
filter message = "tasks completed"
| fields jsonParse(@message) as line
| unnest line.tasks into each
| fields @timestamp, each.ms as ms, task_type, each.task_id as task_id, each.attempt as attempt, @log
| sort ms desc
| limit 100
""",
    "Slowest failed runs": """
filter ispresent(task_id) and ispresent(ms) and outcome != "completed"
| fields @timestamp, ms, task_type, task_id, attempt, outcome, error_type, @log
| sort ms desc
| limit 100
""",
    "Memory and time of invocations": """
filter @type = "REPORT"
| stats count(*) as invocations, pct(@duration, 50) as p50_ms, pct(@duration, 99) as p99_ms,
    max(@maxMemoryUsed) / 1000000 as most_mb, max(@memorySize) / 1000000 as memory_mb by @log
| sort p99_ms desc
| limit 100
""",
    "Lost runs": """
fields @timestamp, @message, @requestId, @log
| filter @message like /Task timed out|signal: (killed|terminated)/
    or @message like /Runtime\\.(ExitError|OutOfMemory|ImportModuleError|HandlerNotFound|UserCodeSyntaxError)/
| sort @timestamp desc
| limit 100
""",
    "Throttled and rate-limited": """
filter outcome = "rate_limited" or @message like /Throttl|TooManyRequests|SlowDown|RequestLimitExceeded/
| fields @timestamp, message, task_type, task_id, outcome, again_in_seconds, error_type, error, @log
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
fields @timestamp, message, swept.overdue, swept.sent, swept.unsent, swept.dead_letters, of_type, waits_seconds, newest,
    old_snapshot.seconds, old_snapshot.holder, old_snapshot.end
| filter task_type = "jobs:sweep" and (message = "swept" or level = "ERROR")
| sort @timestamp desc
| limit 100
""",
}
"""Name → query. Replace a word in capitals by the id or the type to search for.

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
