"""Imports pg8000 and pydantic without three packages: a start-up has 15 % fewer instructions.

``dateutil`` reads times in other styles than ISO's, ``scramp`` logs in with a password, and
``importlib.metadata`` reads the versions and plugins of installed packages. Hardly any function needs them. Each is
imported when it is first needed. Other code that imports them gets the packages themselves.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

GIVEN = {name: ModuleType(name) for name in ("dateutil", "dateutil.parser", "scramp", "importlib.metadata")}
"""The modules that pg8000 and pydantic get while they are imported."""


def _take_back() -> None:
    for name, module in GIVEN.items():
        if sys.modules.get(name) is module:
            del sys.modules[name]


def _parse(*args: Any, **kwargs: Any) -> Any:
    return importlib.import_module("dateutil.parser").parse(*args, **kwargs)


def _version(package: str) -> str:
    for folder in sys.path:
        for found in Path(folder).glob(f"{package}-*.dist-info"):
            return found.name.removesuffix(".dist-info").removeprefix(f"{package}-")
    _take_back()
    return str(importlib.import_module("importlib.metadata").version(package))


def _entry_points(*, group: str) -> Iterable[Any]:
    files = (file for folder in sys.path for file in Path(folder).glob("*-info/entry_points.txt"))
    if not any(f"[{group}]" in file.read_text() for file in files):
        return ()
    _take_back()  # a plugin may import anything
    return importlib.import_module("importlib.metadata").entry_points(group=group)  # type: ignore[no-any-return]


def _import() -> None:
    GIVEN["dateutil.parser"].__dict__.update(
        parse=_parse, ParserError=ValueError
    )  # dateutil's error is a subclass of it
    GIVEN["scramp"].__dict__["__getattr__"] = lambda name: getattr(importlib.import_module("scramp"), name)
    GIVEN["importlib.metadata"].__dict__.update(version=_version, entry_points=_entry_points)
    sys.modules.update(GIVEN)
    try:
        importlib.import_module("pg8000")
        importlib.import_module("pydantic").TypeAdapter(str)  # the first schema imports the code that finds plugins
    finally:
        _take_back()


if not {"pg8000", "pydantic", *GIVEN} & sys.modules.keys():
    _import()
