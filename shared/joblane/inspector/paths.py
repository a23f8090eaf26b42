"""Addresses of the page's views, without the base of the page."""

from __future__ import annotations

from urllib.parse import urlencode


def path(view: str, **parameters: object) -> str:
    """``/runs?type=data%3Aexport``. A parameter that is None or empty is left out."""
    given = {name: str(value) for name, value in parameters.items() if value not in (None, "")}
    return f"{view}?{urlencode(given)}" if given else view
