"""The limits of a stage, for programs: ``JobClient.limits``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pg8000.exceptions import Error as PostgresError

from joblane.enqueue.follow_up import FollowUp
from joblane.enqueue.wake import wake
from joblane.errors import DatabaseUnavailableError, LimitError, text_of
from joblane.record import audit
from joblane.record.flow import limit_changes
from joblane.record.flow.limit_changes import Given
from joblane.record.flow.limit_status import LimitStatus, status_of
from joblane.tasks.limit import Rate

if TYPE_CHECKING:
    from joblane.enqueue.producer import Producer
    from joblane.record.driver.connection import Connection

    Changed = tuple[list[str], dict[str, Any]]
    """The limits of a change, and its details for the audit."""


class Limits:
    """Changes limits, and shows them.

    A change takes effect at once for all tasks that have not started, and survives deploys. It does not stop tasks. The
    audit records each change, with the user and machine of this process, or the name of its Lambda function.
    """

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def set(
        self,
        name: str,
        *,
        key: str | None = None,
        max_per_key: int | None = None,
        max_total: int | None = None,
        total: int | None = None,
        rate: Rate | None = None,
        until: datetime | None = None,
        reason: str | None = None,
    ) -> None:
        """Set values of a limit instead of the declared ones. An argument that is left out changes nothing.

        A raised limit starts waiting tasks at once. A lowered limit does not stop tasks. If the rate changes, tasks
        that wait for their time get new times, at once or with the next sweep.

        Args:
            name: A task type, or the name of a shared limit.
            key: Only this key of the type. None: ``max_per_key`` and ``rate`` hold for each key without values of its
                own.
            max_per_key: Tasks of one key at a time. 0: none starts. Range: 0 to 10000.
            max_total: Tasks of the type at a time. 0: none starts. Range: 0 to 10000.
            total: Tasks at a time, of a shared limit. 0: none starts. Range: 0 to 10000.
            rate: Starts in a time: of the key or each key, of the type if it has no key, or of the shared limit.
            until: Time at which the declared values apply again. None: the time that an earlier change has set, if any;
                otherwise never, until :meth:`reset` is called.
            reason: Reason, for operators and the audit. At most 500 characters. None or empty: no reason.

        Raises:
            LimitError: an argument is wrong. Nothing was changed.
            DatabaseUnavailableError: the database is unavailable, or a claim has locked the limit for more than three
                seconds. Nothing was changed.
        """
        given = Given(max_per_key, max_total, total, rate, until)
        self._change(
            "set_limit",
            limit_changes.target_of(name, key),
            lambda connection, who, line: limit_changes.set_limit(connection, name, key, given, who=who, reason=line),
            reason,
        )

    def reset(self, name: str, *, key: str | None = None, reason: str | None = None) -> None:
        """Return to the declared values, and end a delay of the limit by :class:`~joblane.errors.RateLimited`. Values
        that were set for single keys of a type stay.

        This can also remove the values of a limit that no task declares any more.

        Args:
            name: A task type, or the name of a shared limit.
            key: Only the values of this key. None: the values of the type, and those that apply to each key.
            reason: Reason, for the audit.

        Raises:
            LimitError: an argument is wrong, or nothing was set and the limit is not delayed. Nothing was changed.
            DatabaseUnavailableError: as for :meth:`set`.
        """
        self._change(
            "reset_limit",
            limit_changes.target_of(name, key),
            lambda connection, *_: limit_changes.reset_limit(connection, name, key),
            reason,
        )

    def get(self, name: str, *, key: str | None = None) -> LimitStatus:
        """Return a limit with its values, and the numbers of tasks that run and wait.

        Args:
            name: The name of a shared limit, or a task type: its total, or, if it has none, the limit of each key with
                the tasks of all keys.
            key: The limit of this key of the type.

        Raises:
            LimitError: there is no such limit.
            DatabaseUnavailableError: the database is unavailable.
        """
        with self._connected() as connection:
            names = limit_changes.names_of(limit_changes.known_names(connection), name, key)
            return status_of(connection, names[0])

    def _change(
        self, action: str, target: str, change: Callable[[Connection, str, str | None], Changed], reason: str | None
    ) -> None:
        """Change a limit with an entry in the audit, and serve what the change lets start."""
        try:
            who, line = audit.user_of_process(), audit.line_of(reason)
        except ValueError as error:
            raise LimitError("reason", str(error)) from None
        with self._connected() as connection:
            self._producer.wake_after_commit()
            with limit_changes.transaction(connection):
                changed, details = change(connection, who, line)
                audit.write(connection, who, action, target, reason=line, details=details)
        self._producer.follow(FollowUp(changed=changed))
        wake(self._producer.sqs, self._producer.prefix)

    @contextmanager
    def _connected(self) -> Iterator[Connection]:
        """Reserve an idle connection for this thread. An exception rolls back."""
        with self._producer.connecting() as database:
            try:
                connection = database.get()
                if not connection.idle:
                    raise LimitError(
                        "name", "the handler's transaction is open, and a change of limits commits: use a new JobClient"
                    )
            except (PostgresError, OSError) as error:
                database.drop()
                raise DatabaseUnavailableError(f"the database is unavailable: {text_of(error)}") from error
            try:
                yield connection
            except (PostgresError, OSError) as error:
                database.drop()
                raise DatabaseUnavailableError(
                    f"{text_of(error)}; show the limit before you change it again"
                ) from error
            except BaseException:
                if not connection.usable or not connection.idle:
                    database.drop()
                raise
