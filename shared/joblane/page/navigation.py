"""The menu of the page: six areas, the tabs of an area, and the keys that lead to them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Place:
    """An area, or a tab of an area. ``key``: the key after ``g``; empty: there is none.

    ``under``: other addresses of the place. With a question mark, the address needs that parameter. ``tabs``: the first
    one has the address of the area.
    """

    name: str
    address: str
    key: str = ""
    under: tuple[str, ...] = ()
    tabs: tuple[Place, ...] = ()

    def has(self, path: str, given: Collection[str]) -> bool:
        """True if the address of a request is here. ``given``: the names of its parameters."""
        return any(tab.has(path, given) for tab in self.tabs) or any(
            _is_below(path, *address.split("?"), given=given) for address in (self.address, *self.under)
        )


def _is_below(path: str, address: str, parameter: str | None = None, *, given: Collection[str]) -> bool:
    if parameter is not None and parameter not in given:
        return False
    return path == address or (address != "/" and path.startswith(f"{address}/"))


AREAS = (
    Place("Now", "/", "n"),
    Place("Tasks", "/tasks", "t", ("/task", "/find")),
    Place("Errors", "/errors", "e", ("/dead",)),
    Place(
        "Types",
        "/types",
        "y",
        tabs=(
            Place("Types", "/types", "y", ("/runs?type", "/enqueue")),
            Place("Tenants", "/tenants", "u", ("/runs?tenant",)),
            Place("Statistics", "/statistics", "i"),
            Place("Chart", "/chart", "r"),
        ),
    ),
    Place("Schedules", "/schedules", "s"),
    Place(
        "Control",
        "/limits",
        "c",
        tabs=(
            Place("Limits", "/limits", "l"),
            Place("Waits", "/waits", "w"),
            Place("Pauses", "/pauses", "p"),
            Place("Batches", "/batches", "h"),
            Place("Bulk", "/bulk", "b"),
            Place("Audit", "/audit", "a"),
        ),
    ),
)


def areas(lists: Sequence[tuple[str, str]] = ()) -> tuple[Place, ...]:
    """The areas, with generated lists as the last tabs of Control. ``lists``: their addresses and titles."""
    *others, control = AREAS
    return *others, replace(control, tabs=(*control.tabs, *(Place(title, address) for address, title in lists)))


def place(areas: Sequence[Place], path: str, given: Collection[str]) -> tuple[Place | None, Place | None]:
    """The area and the tab of a request, with None if there is none."""
    area = next((one for one in areas if one.has(path, given)), None)
    return area, next((tab for tab in area.tabs if tab.has(path, given)), None) if area else None


def keys(areas: Sequence[Place]) -> dict[str, Place]:
    """The keys, each with its place: of an area with tabs, its first tab."""
    return {one.key: one for area in areas for one in (area, *area.tabs) if one.key}
