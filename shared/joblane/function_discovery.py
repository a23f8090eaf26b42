"""Finding Lambdas of their own: folders under ``functions/`` whose handler declares a ``FUNCTION`` and no task."""

from __future__ import annotations

import importlib
from pathlib import Path

from joblane import settings
from joblane.cdk.errors import SynthError
from joblane.function import Function


def discover_functions(package: str | None = None) -> dict[str, Function]:
    """Every one under ``package``, by its folder's name with hyphens. Raises :class:`SynthError`.

    A handler without a declaration is passed over: tasks, and the router, which is made with its front doors.
    """
    package = package or settings.functions()
    root = Path(next(iter(importlib.import_module(package).__path__)))
    found = {}
    for path in sorted(root.glob("*/handler.py")):
        module = importlib.import_module(f"{package}.{path.parent.name}.handler")
        declared = vars(module).get("FUNCTION")
        if declared is None:
            continue
        if not isinstance(declared, Function) or not callable(vars(module).get("handler")):
            where = f"{package}/{path.parent.name}/handler.py"
            raise SynthError(f"{where}: a FUNCTION of joblane.function and a handler(event, context) are required")
        found[path.parent.name.replace("_", "-")] = declared
    return found
