"""The session of a handler, or the synchronous side of its asynchronous session."""

from __future__ import annotations

from typing import Any

from sqlalchemy.orm import Session

from joblane.errors import JobError


class HandlerSession(Session):
    """A session that ends with its run. After that, a thread or an asyncio task would write in the next run.

    The handler must not close it: its work would be rolled back, and the run would seem complete.
    """

    has_closed = False
    is_async = False
    run: Any = None
    """The :class:`~joblane.record.task.run_session.RunSession`."""

    def close(self) -> None:
        self._refuse_hook("closes")
        self.has_closed = True
        super().close()

    def reset(self) -> None:
        self._refuse_hook("closes")
        super().reset()

    def invalidate(self) -> None:
        self._refuse_hook("closes")
        super().invalidate()

    def rollback(self) -> None:
        self._refuse_hook("rolls back")
        super().rollback()

    def _refuse_hook(self, what: str) -> None:
        """Refuse a hook that would lose the work of the handler, whose run would seem complete."""
        hooks = None if self.run is None else self.run.hooks
        if hooks is not None and hooks.running:
            name = "ctx.async_session" if self.is_async else "ctx.session"
            raise JobError(
                f"the hook {hooks.running} {what} {name}, which belongs to the handler; put a statement that may fail "
                f"into `with {name}.begin_nested():`"
            )

    def flush(self, *args: object, **kwargs: object) -> None:
        """SQLAlchemy calls this before each statement."""
        if self.has_closed:
            name, block = ("ctx.async_session", "async with") if self.is_async else ("ctx.session", "with")
            raise JobError(
                f"{name} was closed by the end of its run, or by the handler, whose work is then rolled back; use it "
                f"without `{block}`, and wait for every asyncio task and thread"
            )
        super().flush(*args, **kwargs)  # type: ignore[arg-type]
