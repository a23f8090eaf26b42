"""The adapter of the producer's own connection: each call is a transaction, and its messages are sent at once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.insert import Execute, insert_again, insert_tasks, is_lost, refusal
from joblane.enqueue.transaction import Transaction
from joblane.errors import DatabaseUnavailableError, EnqueueError, JobError, text_of

if TYPE_CHECKING:
    from joblane.record.driver.connection import Connection
    from joblane.record.driver.database import Database
    from joblane.record.task.insert import NewTask


class OwnTransaction(Transaction):
    """A transaction of a producer's own connection."""

    def __init__(
        self,
        connecting: Callable[[], AbstractContextManager[Database]],
        wake: Callable[[], None],
        send: Callable[[Sequence[NewTask | JobError]], Container[str]],
    ) -> None:
        """``connecting``: reserves the connection. ``wake``: called before a statement. ``send``: sends messages, and
        returns the ids of the tasks whose messages were sent."""
        self._connecting = connecting
        self._wake = wake
        self._send = send
        self._has_run = False
        self._database: Database

    def run(self, sql: str, *documents: Any) -> Sequence[Sequence[Any]]:
        connection = self._database.get()
        self._wake()
        self._has_run = True
        if len(documents) == 1:
            return connection.run(sql, *documents)
        with _transaction(self._database, connection):
            return connection.run_each(sql, *documents)

    def insert(self, tasks: Sequence[NewTask]) -> list[NewTask | JobError]:
        """Insert rows. If the answer is lost, the same ids are inserted again on a new connection."""
        with self._connecting() as database:
            self._database = database
            try:
                return insert_tasks(self.run, tasks)
            except (PostgresError, OSError) as error:
                database.drop()
                if not (self._has_run and is_lost(error)):
                    raise refusal(error, tasks, may_exist=False) from error
            try:
                return insert_again(self.run, tasks)
            except (PostgresError, OSError) as error:
                database.drop()
                raise refusal(error, tasks, may_exist=True) from error

    @contextmanager
    def together(self) -> Iterator[Execute]:
        """An error of the caller's arguments rolls back."""
        advice = "give session=ctx.session, or use a new JobClient"
        after = "look whether it was changed before you try again"
        with self._writing(advice, after) as (database, connection), _transaction(database, connection):
            yield connection.run_each

    def signal(self, sql: str, document: str) -> Sequence[Sequence[Any]]:
        """Run the statement of a signal, which commits by itself. Raises :class:`DatabaseUnavailableError`."""
        advice = "use ctx.signal(…), or a new JobClient"
        with self._writing(advice, "the signal may have been sent, and to repeat it is harmless") as (_, connection):
            return connection.run(sql, document)

    @contextmanager
    def _writing(self, advice: str, after: str) -> Iterator[tuple[Database, Connection]]:
        """Reserve the connection for statements that write.

        ``advice``: what to do if a transaction is open on it. ``after``: after an error, which may follow a commit.
        """
        with self._connecting() as database:
            try:
                connection = database.get()
                if not connection.idle:
                    raise EnqueueError("session", f"the handler's transaction is open: {advice}")
                self._wake()
                yield database, connection
            except (PostgresError, OSError) as error:
                database.drop()
                raise DatabaseUnavailableError(f"the database is unavailable: {text_of(error)}; {after}") from error

    def send(self, inserted: Sequence[NewTask | JobError]) -> Container[str]:
        return self._send(inserted)


@contextmanager
def _transaction(database: Database, connection: Connection) -> Iterator[None]:
    try:
        connection.execute_simple("begin")
        yield
        connection.commit()
    except JobError:
        connection.rollback()
        raise
    except BaseException:  # an interrupt would leave the transaction open
        database.drop()
        raise
