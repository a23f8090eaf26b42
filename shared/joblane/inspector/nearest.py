"""The known name that a wrong name was meant to be."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def meant(name: object, known: Iterable[str]) -> str:
    """The question for a name that is not known, with at most two of the known names. Empty: none is near."""
    names = {str(each).lower(): str(each) for each in known}
    near = [names[each] for each in get_close_matches(str(name).lower(), names, n=2)]
    return f"Did you mean {' or '.join(map(repr, near))}? " if near else ""
