"""The tables of ``tests/bench/peers/report.md``, rendered from ``results.json``."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.bench.peers import cost_tables, crash_tables

PAGE = Path(__file__).with_name("report.md")
RESULTS = Path(__file__).with_name("results.json")
EMPTY = re.compile(r"(<!-- peers: [a-z-]+ -->\n)(<!-- end -->)")
NOT_MEASURED = "*Not measured yet in a whole run.*"
TABLES = {"costs": cost_tables.tables, "crashes": crash_tables.tables}
"""Part of the results → the function that renders its tables."""


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables by the names of their marks."""
    return {
        name: table
        for part, render in TABLES.items()
        if part in results
        for name, table in render(results[part]).items()
    }


def differences(results: Mapping[str, Any]) -> list[str]:
    """Return what differs between the parts of the results, which may come from two runs."""
    settings = {part: of["setting"] for part, of in results.items()}
    found = [
        f"{name}: " + ", ".join(f"{part} {setting[name]}" for part, setting in settings.items())
        for name in ("quick", "python", "postgresql", "cores")
        if len({setting[name] for setting in settings.values()}) > 1
    ]
    versions: dict[str, dict[str, Any]] = {}
    for part, of in results.items():
        for name, system in of["systems"].items():
            versions.setdefault(name, {})[part] = system.get("versions")
    found += [f"versions of {name}: {of}" for name, of in versions.items() if len(set(map(str, of.values()))) > 1]
    return found


def rendered(text: str, results: Mapping[str, Any]) -> str:
    """Return the page with the tables of the results."""
    for name, table in tables(results).items():
        marked = re.compile(rf"(<!-- peers: {name} -->\n).*?(<!-- end -->)", re.S)
        text, count = marked.subn(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)  # type: ignore[misc]
        assert count == 1, f"{PAGE.name} has {count} marks <!-- peers: {name} -->"
    return EMPTY.sub(rf"\1{NOT_MEASURED}\n\2", text)


def dumped(results: Mapping[str, Any]) -> str:
    """Return the text of ``results.json``."""
    return json.dumps(_short(results), indent=1, ensure_ascii=False) + "\n"


def _short(value: Any) -> Any:
    """Return the value with numbers of five significant digits."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {name: _short(item) for name, item in value.items()}
    return [_short(item) for item in value] if isinstance(value, list | tuple) else value
