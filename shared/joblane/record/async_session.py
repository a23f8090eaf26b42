"""The synchronous side of a handler's asynchronous session."""

from __future__ import annotations

from sqlalchemy.orm import Session

from joblane.errors import JobError


class RunsSession(Session):
    """A session that the handler must not close: its work would be rolled back, and the run would seem complete."""

    has_closed = False

    def close(self) -> None:
        self.has_closed = True
        super().close()

    def flush(self, *args: object, **kwargs: object) -> None:
        if self.has_closed:
            raise JobError(
                "ctx.async_session was closed by the end of its run, or by the handler, whose work is then rolled back;"
                " use it without `async with`, and await every asyncio task"
            )
        super().flush(*args, **kwargs)  # type: ignore[arg-type]
