"""What an operator sees and does: one door for the command line, the page and the HTTP API.

Inspector
    Inspector, Permission, permission_of
Ask
    Filter, BulkAction, PauseScope
Answers
    see :mod:`shared.jobs.inspector.answers`
Errors
    ActionError
"""

from shared.jobs.inspector.answers import BulkAction, Filter, PauseScope
from shared.jobs.inspector.errors import ActionError
from shared.jobs.inspector.inspector import Inspector
from shared.jobs.inspector.permission import Permission, permission_of

__all__ = ["ActionError", "BulkAction", "Filter", "Inspector", "PauseScope", "Permission", "permission_of"]
