"""What an operator sees and does: one door for the command line, the page and the HTTP API.

Inspector
    Inspector, Permission, permission_of
Ask
    Filter, BulkAction, PauseScope
Answers
    see :mod:`joblane.inspector.views`
Errors
    ActionError

Modules:

- in all of it: ``inspector`` the door, ``permission``, ``reach`` what it works with, ``answers``, ``errors``, ``away``,
  ``times``
- tasks: ``listing`` over ``selection``; ``detail`` over ``record`` and ``why``; ``logs``, ``links``
- the stage: ``overview`` over ``depths``; ``schedules``, ``statistics``; ``examination`` over ``examined_record`` and
  ``examined_aws``, which asks through ``aws``
- acting: ``actions`` over ``changes``; ``enqueueing``, ``pauses``, and ``audit``, which each of them runs in
- many at once: ``bulk`` begins, ``bulk_run`` does it in its own task; ``dead`` and ``redrive`` over ``letters``
- from afar: ``wire``
"""

from joblane.inspector.errors import ActionError
from joblane.inspector.filter import BulkAction, Filter, PauseScope
from joblane.inspector.inspector import Inspector
from joblane.inspector.permission import Permission, permission_of

__all__ = ["ActionError", "BulkAction", "Filter", "Inspector", "PauseScope", "Permission", "permission_of"]
