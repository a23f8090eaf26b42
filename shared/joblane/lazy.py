"""Lazy imports: a module is imported when a program first uses one of its names.

A worker's start, ``joblane --help`` and the pytest plugin all import the package, and each needs only a part of it.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def importer(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """Return the ``__getattr__`` of ``package``. ``homes``: module → its public names, separated by spaces."""
    home = {name: module for module, names in homes.items() for name in names.split()}

    def get(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(home[name]), name)
        setattr(sys.modules[package], name, value)
        return value

    return get


class _Module:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)


def modules(package: str, names: str) -> list[Any]:
    """Return a stand-in for each module of ``package`` in ``names``, which are separated by spaces."""
    return [_Module(f"{package}.{name}") for name in names.split()]
