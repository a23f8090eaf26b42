"""Loops over many items that keep their work as they go: ``ctx.each``, ``ctx.isolated`` and ``ctx.resume``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union

from pydantic_core import PydanticSerializationError, to_jsonable_python

from joblane.errors import (
    OUTCOMES,
    Continued,
    CursorError,
    ItemKeyError,
    JobError,
    LeaseLostError,
    MessageError,
    PartialFailure,
    sqlstate,
)
from joblane.json_values import check_text, check_tree
from joblane.limits import RESUME_RESERVE
from joblane.record import checkpoints
from joblane.record.connection import is_unavailable

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Select

    from joblane.record.run_session import RunSession

T = TypeVar("T")
Source = Union["Select[T]", Callable[[Any], Iterable[T]], Sequence[T]]
MAX_KEY_BYTES = 2_000
"""Next to a task's id in one entry of a B-tree, which holds 2,704."""


@dataclass
class Loops:
    """The loops of one run; :class:`~joblane.context.TaskContext` says what each promises.

    ``check``: raises where the run is to stop. ``remaining``: of this invocation's time. ``continues``: the attempt has
    more.
    """

    work: RunSession
    task_id: str
    check: Callable[[], None]
    remaining: Callable[[], timedelta]
    continues: bool
    _over: str = ""
    _resumed: bool = False
    _failures: list[Exception] = field(default_factory=list)

    def each(self, items: Iterable[T], key: Callable[[T], str]) -> Iterator[T]:
        with self._loop("each"):
            done = self._read(checkpoints.done_items)
            self._failures = []
            for item in items:
                name = key_of(item, key)
                if name in done:
                    continue
                failures = len(self._failures)
                yield item
                if len(self._failures) == failures:
                    self.work.keep(partial(checkpoints.mark_item, key=name))
                    done.add(name)
                else:
                    self.work.roll_back()
                self.check()
            if self._failures:
                raise PartialFailure(len(self._failures), len(done), self._failures[0]) from self._failures[0]

    @contextmanager
    def isolated(self) -> Iterator[None]:
        if self._over != "each":
            raise JobError("ctx.isolated() belongs inside a loop over ctx.each(…), which knows the item in hand")
        try:
            yield
            self.work.flush()
        except (*OUTCOMES, LeaseLostError):
            raise
        except Exception as error:  # any failure of the item's own
            if not self.work.database.usable or (sqlstate(error) and is_unavailable(error)):
                raise
            self.work.roll_back()
            self._failures.append(error)

    def resume(self, source: Any, cursor: Any, chunk: int) -> Iterator[Any]:
        if self._resumed:
            raise CursorError("source: a task has one cursor, so a handler has one loop over ctx.resume(…)")
        with self._loop("resume"):
            self._resumed = True
            after, done = self._read(checkpoints.read_cursor)
            pages: Pages[Any] = Pages(source, cursor, lambda: self.work.session, chunk, done)
            slowest = 0.0
            while True:
                started = time.monotonic()
                page, after = pages.after(after)
                if not page:
                    return
                yield from page
                done += len(page)
                self.work.keep(partial(checkpoints.move_cursor, cursor=json.dumps(after), done=done))
                slowest = max(slowest, time.monotonic() - started)
                self.check()
                reserve = min(timedelta(seconds=5 + 3 * slowest), RESUME_RESERVE)
                if self.continues and self.remaining() < reserve:
                    raise Continued

    @contextmanager
    def _loop(self, over: str) -> Iterator[None]:
        """One loop at a time: what an inner loop commits would be half of the outer one's item."""
        if self._over:
            raise JobError("loops over ctx.each(…) and ctx.resume(…) do not go inside one another")
        self._over = over
        try:
            yield
        finally:
            self._over = ""

    def _read(self, read: Callable[[Any, str], T]) -> T:
        """Read a checkpoint after what is pending is written, uninterrupted."""
        self.work.flush()
        with self.work.uninterrupted:
            return read(self.work.connection(), self.task_id)


def key_of(item: T, key: Callable[[T], str]) -> str:
    """The key of an item of ``ctx.each``. Raises :class:`ItemKeyError`."""
    if key is str and type(item).__repr__ is object.__repr__ and type(item).__str__ is object.__str__:
        raise ItemKeyError(f"key: {type(item).__name__} has no text of its own; give a function, e.g. key=lambda …")
    name = key(item)
    if not isinstance(name, str):
        raise ItemKeyError(f"key: text is required, not {type(name).__name__}")
    try:
        check_text(name, "key")
    except MessageError as error:
        raise ItemKeyError(str(error)) from None
    if not 1 <= (size := len(name.encode())) <= MAX_KEY_BYTES:
        raise ItemKeyError(f"key: text of 1 to {MAX_KEY_BYTES:,} bytes is required, not {size:,}")
    return name


class Pages(Generic[T]):
    """Pages of at most ``size`` items. ``done``: how many items an earlier run has done, for a sequence.

    Raises :class:`CursorError`.
    """

    def __init__(self, source: Source[T], cursor: Any, session: Callable[[], Session], size: int, done: int) -> None:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise CursorError(f"chunk: a whole number of 1 or more is required, not {size!r}")
        self._source = source
        self._cursor = cursor
        self._session = session
        self._size = size
        self._position = done
        if isinstance(source, Sequence):
            if cursor is not None:
                raise CursorError("cursor: a sequence's is the position; leave it out, or give a function as source")
        elif callable(source):
            if not callable(cursor):
                raise CursorError("cursor: a function from an item to its cursor is required with a function")
        elif hasattr(source, "column_descriptions"):
            self._type = _type_of(source, cursor)
        else:
            raise CursorError(f"source: a select, a function or a sequence is required, not {type(source).__name__}")

    def after(self, cursor: Any) -> tuple[list[T], Any]:
        """The items that follow ``cursor``, none at the end, and the cursor of the last as JSON holds it."""
        if isinstance(self._source, Sequence):
            page = list(self._source[self._position : self._position + self._size])
            self._position += len(page)
            return page, self._position
        if not callable(self._source):
            return self._query(cursor)
        page = list(islice(self._source(cursor), self._size))
        last = _plain(self._cursor(page[-1])) if page else cursor
        if page and last == cursor:
            raise CursorError("source: it returned the same items again; it has to return those after the cursor")
        return page, last

    def _query(self, cursor: Any) -> tuple[list[T], Any]:
        """One row more than the page holds tells whether the cursor parts them: rows would else be passed over."""
        query: Any = self._source
        if cursor is None:
            self._refuse_nulls(query)
        else:
            query = query.where(self._cursor > self._type.validate_python(cursor))
        alone = len(query.column_descriptions) == 1
        if alone:
            query = query.add_columns(self._cursor)
        query = query.order_by(None).order_by(self._cursor).limit(self._size + 1)
        rows: list[Any] = list(self._session().execute(query))
        cursors = [row[1] if alone else _value(row, self._cursor) for row in rows[self._size - 1 :]]
        if len(cursors) == 2 and cursors[0] == cursors[1]:
            raise CursorError("cursor: two rows have the same; a column that is unique is required")
        page = rows[: self._size]
        if not page:
            return [], cursor
        last = cursors[0] if cursors else (page[-1][1] if alone else _value(page[-1], self._cursor))
        plain = _plain(last)
        if self._type.validate_python(plain) != last:
            raise CursorError(f"cursor: JSON does not hold a {type(last).__name__} of this column as it is")
        return [row[0] if alone else row for row in page], plain

    def _refuse_nulls(self, query: Any) -> None:
        """Rows without a cursor come after no other: they would be passed over in silence."""
        if getattr(getattr(self._cursor, "expression", self._cursor), "nullable", True):
            without = query.where(self._cursor.is_(None)).order_by(None).limit(1)
            if self._session().execute(without).first() is not None:
                raise CursorError("cursor: there are rows where it is null; a column that is never null is required")


def _type_of(query: Any, cursor: Any) -> Any:
    """What reads a cursor back from JSON as the column's type."""
    from pydantic import TypeAdapter

    if getattr(query, "_limit_clause", None) is not None or getattr(query, "_offset_clause", None) is not None:
        raise CursorError("source: a select without limit and offset is required, as each chunk has its own")
    if not hasattr(query, "where") or not hasattr(cursor, "type"):
        raise CursorError("cursor: a column of the query is required, e.g. cursor=Member.id")
    kind: type = object
    with suppress(NotImplementedError):
        kind = cursor.type.python_type
    if kind is object:
        raise CursorError(f"cursor: a column of type {cursor.type!r} has no Python type that JSON can hold")
    return TypeAdapter(kind)


def _value(row: Any, cursor: Any) -> Any:
    try:
        return row._mapping[cursor]
    except KeyError:
        raise CursorError("cursor: it has to be one of the columns that are selected") from None


def _plain(value: Any) -> Any:
    """``value`` as JSON holds it."""
    try:
        plain = to_jsonable_python(value)
        check_tree(plain, "cursor")
        json.dumps(plain, allow_nan=False)
    except MessageError as error:
        raise CursorError(str(error)) from None
    except (PydanticSerializationError, TypeError, ValueError):
        raise CursorError(f"cursor: a value that JSON can hold is required, not {type(value).__name__}") from None
    if plain is None:
        raise CursorError("cursor: None stands for the beginning; every item needs a cursor")
    return plain
