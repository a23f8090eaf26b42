"""Answers of the inspector: plain typed objects, which JSON can hold unchanged.

Times are aware UTC. In payloads, results and headers the values of redacted fields are masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from joblane.lazy import importer

if TYPE_CHECKING:  # the names of the map below, for type checkers
    from joblane.inspector.views.actions import BULK_RESULTS, ActionResult, AuditEntry, BulkOutcome, BulkView
    from joblane.inspector.views.batches import BatchRow, BatchView, archived_members
    from joblane.inspector.views.batching import Batching, Obstacle
    from joblane.inspector.views.causes import Cause, CauseNote, Causes, CauseState, MarkedCauses
    from joblane.inspector.views.chart import Chart, Line
    from joblane.inspector.views.dead import DeadLetters
    from joblane.inspector.views.graph import Edge, EdgeKind, Graph, Node
    from joblane.inspector.views.limits import LimitStatus
    from joblane.inspector.views.now import Now, Trouble, TypeNow
    from joblane.inspector.views.preview import Block, BlockKind, Preview, PreviewCause
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
        Signal,
        Step,
        TaskPage,
        TaskRow,
        TaskView,
        Wait,
        WaitPage,
        WaitRow,
        Why,
    )
    from joblane.inspector.views.tenants import TenantType, TenantView

__all__ = [
    "BULK_RESULTS",
    "ActionResult",
    "Attempt",
    "AuditEntry",
    "BatchRow",
    "BatchView",
    "Batching",
    "Block",
    "BlockKind",
    "BulkOutcome",
    "BulkView",
    "Cause",
    "CauseNote",
    "CauseState",
    "Causes",
    "Chart",
    "Check",
    "Count",
    "DeadLetters",
    "Depth",
    "Edge",
    "EdgeKind",
    "Found",
    "FoundGroup",
    "FoundKind",
    "Grade",
    "Graph",
    "Lane",
    "LimitStatus",
    "Line",
    "LogLine",
    "Mark",
    "MarkedCauses",
    "Minute",
    "Node",
    "Now",
    "Obstacle",
    "Overview",
    "Pause",
    "Paused",
    "Percentiles",
    "Performance",
    "Period",
    "Preview",
    "PreviewCause",
    "QueueView",
    "Reason",
    "Relative",
    "Relatives",
    "RunCounts",
    "SchedulePage",
    "SchedulePause",
    "ScheduleRow",
    "ScheduleView",
    "Signal",
    "Statistic",
    "Step",
    "TaskPage",
    "TaskRow",
    "TaskView",
    "TenantRow",
    "TenantType",
    "TenantView",
    "TickView",
    "Trouble",
    "TypeNow",
    "TypeView",
    "Wait",
    "WaitPage",
    "WaitRow",
    "Why",
    "archived_members",
]
_HOMES = {
    "joblane.inspector.views.actions": "BULK_RESULTS ActionResult AuditEntry BulkOutcome BulkView",
    "joblane.inspector.views.batches": "BatchRow BatchView archived_members",
    "joblane.inspector.views.batching": "Batching Obstacle",
    "joblane.inspector.views.causes": "Cause CauseNote Causes CauseState MarkedCauses",
    "joblane.inspector.views.dead": "DeadLetters",
    "joblane.inspector.views.chart": "Chart Line",
    "joblane.inspector.views.graph": "Edge EdgeKind Graph Node",
    "joblane.inspector.views.limits": "LimitStatus",
    "joblane.inspector.views.now": "Now Trouble TypeNow",
    "joblane.inspector.views.preview": "Block BlockKind Preview PreviewCause",
    "joblane.inspector.views.runs": "Mark Percentiles Performance Period RunCounts Statistic",
    "joblane.inspector.views.schedules": "SchedulePage SchedulePause ScheduleRow ScheduleView TickView",
    "joblane.inspector.views.stage": "Check Count Depth Grade Lane Minute "
    "Overview Pause Paused QueueView TenantRow TypeView",
    "joblane.inspector.views.tenants": "TenantType TenantView",
    "joblane.inspector.views.tasks": "Attempt Found FoundGroup FoundKind LogLine Reason "
    "Relative Relatives Signal Step TaskPage TaskRow TaskView Wait WaitPage WaitRow Why",
}
"""Module → its names."""
__getattr__ = importer(__name__, _HOMES)
