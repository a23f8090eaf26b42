"""The order of a table: from the address of the page, and as links in the head of the table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

from starlette.requests import Request

from joblane.inspector.listing import LISTINGS, Column, Listing
from joblane.page.filters import YES, checked

Row = TypeVar("Row")
OWN = ("sort", "desc", "from", "note")
"""Parameters that a link to another order leaves out."""


@dataclass(frozen=True, slots=True)
class Sorting:
    """The order of a table. ``name`` None: the operation's own. ``path``, ``others``: the rest of the address."""

    listing: Listing
    path: str
    others: tuple[tuple[str, str], ...]
    name: str | None
    descending: bool

    def of(self, rows: Iterable[Row]) -> tuple[Row, ...]:
        """The rows of a whole list in this order."""
        return tuple(rows) if self.name is None else self.listing.sorted(rows, self.name, descending=self.descending)

    def link(self, column: Column) -> tuple[str, str] | None:
        """The address that sorts by a column, and the value of ``aria-sort``; None: there is no such order.

        The link of the sorted column reverses it, or leads to the list's own order if the operation has no reverse.
        """
        name = next((name for name, each in self.listing.sortable.items() if each == column), None)
        if name is None:
            return None
        is_sorted, order = name == self.name, self.listing.orders.get(column.title)
        if order:
            given = {} if is_sorted else {"sort": name}
            now = "descending" if order.descending else "ascending"
        else:
            down = not self.descending if is_sorted else column.is_largest_first
            given = {"sort": name, **({"desc": YES} if down else {})}
            now = "descending" if self.descending else "ascending"
        return f"{self.path}?{urlencode([*self.others, *given.items()])}", now if is_sorted else "none"


def sorting(request: Request, row: type, *, default: str | None = None) -> Sorting:
    """Read ``sort`` and ``desc``. ``row``: the class of the rows. ``default``: the order without ``sort``.

    Raises :class:`SelectionError`.
    """
    listing, given = LISTINGS[row], request.query_params
    name = given.get("sort") or default
    descending = checked("desc", given.get("desc") or None)
    if name and (given.get("sort") or name in listing.sortable):
        column = listing.sorting(name)
        order = listing.orders.get(column.title)
        descending = order.descending if order else descending
    others = tuple((key, value) for key, value in given.multi_items() if key not in OWN)
    return Sorting(listing, request.url.path, others, name, descending)
