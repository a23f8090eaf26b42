"""Loops over many items that commit step by step: ``ctx.each``, ``ctx.isolated`` and ``ctx.resume``."""

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
    StepError,
    sqlstate,
)
from joblane.json_values import check_text, check_tree
from joblane.quotas import RESUME_RESERVE
from joblane.record.driver.connection import TIMED_OUT, is_unavailable
from joblane.record.task import checkpoints

if TYPE_CHECKING:
    from sqlalchemy.orm import Session
    from sqlalchemy.sql import Select

    from joblane.record.task.run_session import RunSession

T = TypeVar("T")
Source = Union["Select[T]", Callable[[Any], Iterable[T]], Sequence[T]]
MAX_KEY_BYTES = 2_000
"""The longest key. It shares an entry of a B-tree with the task's id, and such an entry holds 2,704 bytes."""


@dataclass
class Loops:
    """The loops of one run. :class:`~joblane.handler.context.TaskContext` documents them.

    ``check``: raises if the run must stop. ``remaining``: returns the time left in this invocation. ``continues``: the
    attempt may continue in the next invocation.
    """

    work: RunSession
    task_id: str
    check: Callable[[], None]
    remaining: Callable[[], timedelta]
    continues: bool
    open: str = ""
    """The open loop, ``each`` or ``resume``; or ``step``; or none."""
    is_plain: bool = False
    """The open loop or step is not an asynchronous one."""
    failures: list[Exception] = field(default_factory=list)
    """The errors of the items that failed."""
    _resumed: bool = False

    def each(self, items: Iterable[T], key: Callable[[T], str]) -> Iterator[T]:
        return Loop("each", self._each(items, key))

    def _each(self, items: Iterable[T], key: Callable[[T], str]) -> Iterator[T]:
        with self._loop("each"):
            steps = Items(self, key)
            for item in items:
                if steps.begin(item):
                    yield item
                    steps.keep()
            steps.end()

    @contextmanager
    def isolated(self) -> Iterator[None]:
        self.check_isolated()
        try:
            yield
            self.work.flush()
        except Exception as error:
            if not self.is_of_item(error) or not self.work.database.usable:
                raise
            self.fail_item(error)

    def resume(self, source: Any, cursor: Any, chunk: int) -> Iterator[Any]:
        return Loop("resume", self._resume(source, cursor, chunk))

    def _resume(self, source: Any, cursor: Any, chunk: int) -> Iterator[Any]:
        with self._loop("resume"):
            steps: Chunks[Any] = Chunks(self, source, cursor, chunk)
            while page := steps.begin():
                yield from page
                steps.keep()

    @contextmanager
    def _loop(self, name: str) -> Iterator[None]:
        self.enter(name)
        self.is_plain = True
        try:
            yield
        finally:
            self.open, self.is_plain = "", False

    def enter(self, name: str) -> None:
        """Refuse a loop inside a loop: the inner one would commit half of the outer one's item."""
        refuse_stopped(self.work, f"ctx.{name}")
        if name == "resume" and self._resumed:
            raise CursorError("source: a task has one cursor, so a handler has one loop over ctx.resume(…)")
        if self.open:
            where = "ctx.step(…)" if self.open == "step" else "another such loop"
            raise JobError(f"a loop over ctx.each(…) or ctx.resume(…) cannot be inside {where}")
        self.open = name
        self._resumed = self._resumed or name == "resume"

    def check_isolated(self) -> None:
        if self.open != "each":
            raise JobError("ctx.isolated() belongs inside a loop over ctx.each(…), which knows the current item")

    def is_of_item(self, error: Exception) -> bool:
        """True if an error concerns only the current item."""
        is_outcome = isinstance(error, (*OUTCOMES, LeaseLostError))
        return not is_outcome and (sqlstate(error) in (None, TIMED_OUT) or not is_unavailable(error))

    def fail_item(self, error: Exception) -> None:
        self.work.roll_back()
        self.failures.append(error)

    def read(self, read: Callable[[Any, str], T]) -> T:
        """Flush the session, and read a checkpoint without an interrupt by the timeout."""
        self.work.flush()
        with self.work.own_statements():
            return read(self.work.connection(), self.task_id)


class Loop(Iterator[T]):
    """The items of a loop over ``ctx.each`` or ``ctx.resume``, for a ``for`` statement.

    ``list(…)`` would mark all items as done before their work. Such a call asks for the length, and a ``for`` does not.
    """

    def __init__(self, name: str, items: Iterator[T]) -> None:
        self._name, self._items = name, items

    def __iter__(self) -> Iterator[T]:
        return self._items

    def __next__(self) -> T:
        return next(self._items)

    def __length_hint__(self) -> int:
        raise JobError(
            f"write `for item in ctx.{self._name}(…)`: a list of it would mark all items as done before their work"
        )


def refuse_stopped(work: RunSession, what: str) -> None:
    """Refuse a call after the run has stopped at a wait: in a ``finally``, or in code that has caught the stop."""
    if work.waits is not None and work.waits.stop is not None:
        raise StepError(
            "",
            f"{what}: the run has stopped at the wait {work.waits.stop.name!r}, so it can do nothing more. Do not "
            "catch the stop, and call nothing of ctx in `finally` or `except BaseException`: they run at each stop",
        )


class Items(Generic[T]):
    """The steps of a loop over ``ctx.each``: :meth:`begin` and :meth:`keep` for each item, then :meth:`end`."""

    def __init__(self, loops: Loops, key: Callable[[T], str]) -> None:
        self._loops = loops
        self._key = key
        self._done = loops.read(checkpoints.done_items)
        self._name = ""
        self._failed = 0
        loops.failures = []

    def begin(self, item: T) -> bool:
        """Return False if an earlier run, or this one, has finished the item."""
        self._name = key_of(item, self._key)
        self._failed = len(self._loops.failures)
        return self._name not in self._done

    def keep(self) -> None:
        """Commit the work for the item. If it failed, roll it back."""
        work = self._loops.work
        if len(self._loops.failures) == self._failed:
            work.keep(partial(checkpoints.mark_item, key=self._name))
            self._done.add(self._name)
        else:
            work.roll_back()
        self._loops.check()

    def end(self) -> None:
        """Raise :class:`PartialFailure` if items failed."""
        if failures := self._loops.failures:
            raise PartialFailure(len(failures), len(self._done), failures[0]) from failures[0]


class Chunks(Generic[T]):
    """The steps of a loop over ``ctx.resume``: :meth:`begin` and :meth:`keep` for each chunk."""

    def __init__(self, loops: Loops, source: Any, cursor: Any, size: int) -> None:
        self._loops = loops
        self.after, self._done = loops.read(checkpoints.read_cursor)
        self._pages: Pages[T] = Pages(source, cursor, lambda: loops.work.session, size, self._done)
        self._page: list[T] = []
        self._slowest = self._started = 0.0

    def begin(self) -> list[T]:
        """Return the items of the next chunk, none at the end."""
        self._started = time.monotonic()
        self._page, self.after = self._pages.after(self.after)
        return self._page

    def keep(self) -> None:
        """Commit the work for the chunk. Raises :class:`Continued` if the next chunk belongs to another invocation."""
        loops = self._loops
        self._done += len(self._page)
        loops.work.keep(partial(checkpoints.move_cursor, cursor=json.dumps(self.after), done=self._done))
        self._slowest = max(self._slowest, time.monotonic() - self._started)
        loops.check()
        reserve = min(timedelta(seconds=5 + 3 * self._slowest), RESUME_RESERVE)
        if loops.continues and loops.remaining() < reserve:
            raise Continued


def key_of(item: T, key: Callable[[T], str]) -> str:
    """Return the key of an item of ``ctx.each``. Raises :class:`ItemKeyError`."""
    if key is str and type(item).__repr__ is object.__repr__ and type(item).__str__ is object.__str__:
        raise ItemKeyError(f"key: {type(item).__name__} does not define str(); give a function, e.g. key=lambda …")
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
    """Pages of at most ``size`` items. ``done``: the number of finished items, which is a sequence's position.

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
                raise CursorError(
                    "cursor: a sequence uses its position; leave the cursor out, or give a function as source"
                )
        elif callable(source):
            if not callable(cursor):
                raise CursorError(
                    "cursor: a source function needs a cursor function, which returns the cursor of an item"
                )
        elif hasattr(source, "column_descriptions"):
            self._type = _type_of(source, cursor)
        else:
            raise CursorError(f"source: a select, a function or a sequence is required, not {type(source).__name__}")

    def after(self, cursor: Any) -> tuple[list[T], Any]:
        """Return the items after ``cursor``, none at the end, and the last item's cursor as a JSON value."""
        if isinstance(self._source, Sequence):
            page = list(self._source[self._position : self._position + self._size])
            self._position += len(page)
            return page, self._position
        if not callable(self._source):
            return self._query(cursor)
        page = list(islice(self._source(cursor), self._size))
        last = _plain(self._cursor(page[-1])) if page else cursor
        if page and last == cursor:
            raise CursorError("source: it returned the same items again; it must return the items after the cursor")
        return page, last

    def _query(self, cursor: Any) -> tuple[list[T], Any]:
        """Read one row more than a page: if its cursor equals the last one of the page, rows would be skipped."""
        query: Any = self._source
        if cursor is None:
            self._refuse_nulls(query)
        else:
            query = query.where(self._cursor > self._type.validate_python(cursor))
        is_single = len(query.column_descriptions) == 1
        if is_single:
            query = query.add_columns(self._cursor)
        query = query.order_by(None).order_by(self._cursor).limit(self._size + 1)
        rows: list[Any] = list(self._session().execute(query))
        cursors = [row[1] if is_single else _value(row, self._cursor) for row in rows[self._size - 1 :]]
        if len(cursors) == 2 and cursors[0] == cursors[1]:
            raise CursorError("cursor: two rows have the same value; a unique column is required")
        page = rows[: self._size]
        if not page:
            return [], cursor
        last = cursors[0] if cursors else (page[-1][1] if is_single else _value(page[-1], self._cursor))
        plain = _plain(last)
        if getattr(last, "tzinfo", None) is not None and not getattr(self._cursor.type, "timezone", True):
            # SQLAlchemy would send it without its zone, and the database would read it in the session's zone
            raise CursorError(
                "cursor: the column's times have a zone; its declaration DateTime(timezone=True) is required"
            )
        if self._type.validate_python(plain) != last:
            raise CursorError(f"cursor: JSON cannot store a {type(last).__name__} of this column unchanged")
        return [row[0] if is_single else row for row in page], plain

    def _refuse_nulls(self, query: Any) -> None:
        """Refuse rows whose cursor is null, because they would be skipped silently."""
        if getattr(getattr(self._cursor, "expression", self._cursor), "nullable", True):
            without = query.where(self._cursor.is_(None)).order_by(None).limit(1)
            if self._session().execute(without).first() is not None:
                raise CursorError("cursor: it is null in some rows; a column that is never null is required")


def _type_of(query: Any, cursor: Any) -> Any:
    """Return the adapter that converts a JSON value into the column's type."""
    from pydantic import TypeAdapter

    if getattr(query, "_limit_clause", None) is not None or getattr(query, "_offset_clause", None) is not None:
        raise CursorError("source: a select without limit and offset is required, because each chunk sets them")
    if not hasattr(query, "where") or not hasattr(cursor, "type"):
        raise CursorError("cursor: a column of the query is required, e.g. cursor=Member.id")
    kind: type = object
    with suppress(NotImplementedError):
        kind = cursor.type.python_type
    if kind is object:
        raise CursorError(
            f"cursor: a column of type {cursor.type!r} has no Python type that JSON can hold; for a "
            "column without a table write column(name, type)"
        )
    return TypeAdapter(kind)


def _value(row: Any, cursor: Any) -> Any:
    try:
        return row._mapping[cursor]
    except KeyError:
        raise CursorError("cursor: a selected column is required") from None


def _plain(value: Any) -> Any:
    """Return ``value`` as a JSON value."""
    try:
        plain = to_jsonable_python(value)
        check_tree(plain, "cursor")
        json.dumps(plain, allow_nan=False)
    except MessageError as error:
        raise CursorError(str(error)) from None
    except (PydanticSerializationError, TypeError, ValueError):
        raise CursorError(f"cursor: a value that JSON can store is required, not {type(value).__name__}") from None
    if plain is None:
        raise CursorError("cursor: None means the start; every item needs a cursor")
    return plain
