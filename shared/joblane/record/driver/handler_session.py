"""The session of a handler, or the synchronous side of its asynchronous session."""

from __future__ import annotations

from sqlalchemy.orm import Session

from joblane.errors import JobError


class HandlerSession(Session):
    """A session that ends with its run. After that, a thread or an asyncio task would write in the next run.

    The handler must not close it: its work would be rolled back, and the run would seem complete.
    """

    has_closed = False
    is_async = False

    def close(self) -> None:
        self.has_closed = True
        super().close()

    def flush(self, *args: object, **kwargs: object) -> None:
        """SQLAlchemy calls this before each statement."""
        if self.has_closed:
            name, block = ("ctx.async_session", "async with") if self.is_async else ("ctx.session", "with")
            raise JobError(
                f"{name} was closed by the end of its run, or by the handler, whose work is then rolled back; use it "
                f"without `{block}`, and wait for every asyncio task and thread"
            )
        super().flush(*args, **kwargs)  # type: ignore[arg-type]
