"""Public names that are imported on first use, so that a program which wants one of them does not pay for the others.

A worker's start, ``joblane --help`` and the pytest plugin all import a package of the library; none needs all of it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def importer(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """``__getattr__`` of ``package``. ``homes``: module → the names that it defines, separated by spaces."""
    home = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
