"""Answers of the inspector: plain typed objects, which JSON can hold unchanged.

Times are aware UTC. In payloads, results and headers the values of redacted fields are masked.
"""

from joblane.inspector.views.actions import BULK_RESULTS, ActionResult, AuditEntry, BulkOutcome, BulkView
from joblane.inspector.views.batches import BatchRow, BatchView, archived_members
from joblane.inspector.views.batching import Batching, Obstacle
from joblane.inspector.views.dead import Acknowledged, DeadGroup, DeadLetters
from joblane.inspector.views.limits import LimitStatus
from joblane.inspector.views.runs import Mark, Percentiles, Performance, Period, RunCounts, Statistic
from joblane.inspector.views.schedules import SchedulePage, SchedulePause, ScheduleRow, ScheduleView, TickView
from joblane.inspector.views.stage import (
    Check,
    Count,
    Depth,
    Grade,
    Lane,
    Minute,
    Overview,
    Pause,
    Paused,
    QueueView,
    TenantRow,
    TypeView,
)
from joblane.inspector.views.tasks import (
    Attempt,
    Found,
    FoundGroup,
    FoundKind,
    LogLine,
    Reason,
    Relative,
    Relatives,
    Step,
    TaskPage,
    TaskRow,
    TaskView,
    Why,
)

__all__ = [
    "BULK_RESULTS",
    "Acknowledged",
    "ActionResult",
    "Attempt",
    "AuditEntry",
    "BatchRow",
    "BatchView",
    "Batching",
    "BulkOutcome",
    "BulkView",
    "Check",
    "Count",
    "DeadGroup",
    "DeadLetters",
    "Depth",
    "Found",
    "FoundGroup",
    "FoundKind",
    "Grade",
    "Lane",
    "LimitStatus",
    "LogLine",
    "Mark",
    "Minute",
    "Obstacle",
    "Overview",
    "Pause",
    "Paused",
    "Percentiles",
    "Performance",
    "Period",
    "QueueView",
    "Reason",
    "Relative",
    "Relatives",
    "RunCounts",
    "SchedulePage",
    "SchedulePause",
    "ScheduleRow",
    "ScheduleView",
    "Statistic",
    "Step",
    "TaskPage",
    "TaskRow",
    "TaskView",
    "TenantRow",
    "TickView",
    "TypeView",
    "Why",
    "archived_members",
]
