"""Sending for the tasks that the sweep has taken. A task whose message SQS refuses gets its earlier times back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from joblane import telemetry
from joblane.enqueue.follow_up import FollowUp, send_turns
from joblane.errors import MessageError, text_of
from joblane.record.driver.connection import Connection
from joblane.record.task.row_by_row import leave_row, run_rows
from joblane.sqs.client import NO_ANSWER, NO_SUCH_QUEUE, Entry, Sqs
from joblane.sqs.depth import queue_depth
from joblane.sqs.message import TENANT_PATTERN, Message, decode
from joblane.sweep.next_sweep import NextSweep

# Only rows that nobody has changed since they were taken. Rows are locked in the order of their ids, as everywhere.
GIVE_BACK = """
with given as materialized (
  select r.id, x.before
    from (select * from jsonb_to_recordset($1::jsonb) as x(id text, taken timestamptz, before timestamptz)
           order by id collate "C") as x,
         lateral (select t.id from joblane.tasks t
                   where t.id = x.id and t.sweep_at = x.taken for no key update) as r
)
update joblane.tasks t set sweep_at = given.before, sends = greatest(t.sends - 1, 0)
  from given where t.id = given.id
"""


SILENT = "SQS does not answer; the tasks wait, and the next sweep tries again. Check the network, and AWS's status"


@dataclass(frozen=True, slots=True)
class Taken:
    """A task that this sweep has taken, with its message. ``taken``: the ``sweep_at`` that the sweep has written;
    ``before``: the one before it."""

    id: str
    entry: Entry
    taken: str
    before: str


@dataclass
class Sends:
    """The sends of one sweep.

    ``refused``: queue → the reason why SQS accepted nothing for it; this sweep sends no more to it. ``silent``: SQS did
    not answer at all, so this sweep sends nothing more. ``unsent``: the number of messages that SQS did not accept.
    ``following``: gets what is left to the next sweep.
    """

    connection: Connection
    sqs: Sqs
    following: NextSweep = field(default_factory=NextSweep)
    refused: dict[str, str] = field(default_factory=dict)
    silent: bool = False
    unsent: int = 0

    def send(self, taken: Sequence[Taken]) -> list[Taken]:
        """Send the messages. Return the tasks whose messages SQS accepted."""
        if not taken:
            return []
        failed = self.sqs.send_many([one.entry for one in taken])
        sent = [one for position, one in enumerate(taken) if position not in failed]
        if failed:
            self.following.is_due = True
            self._give_back(taken, failed, {one.entry.queue for one in sent})
        return sent

    def follow(self, prefix: str, follow_up: FollowUp) -> Iterator[int]:
        """Do what follows an end, and yield the number of tasks of each step that may start now.

        A later sweep sends the messages that SQS does not accept.
        """
        for turns in follow_up.steps(lambda step: step(self.connection)):
            if turns and (self.silent or not send_turns(self.sqs, prefix, turns)):
                self.following.is_due = True
            yield len(turns)

    def depth(self, queue: str) -> int | None:
        """Return the number of messages in a queue, in flight and delayed ones included; None if it cannot be read."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            return queue_depth(self.sqs, queue).all
        except ClientError as error:
            if any(name in str(error) for name in NO_SUCH_QUEUE):
                self._refuse(queue, 0, str(error))
            else:
                telemetry.logger().warning(
                    "the number of messages in a lane could not be read, so tasks that wait there are sent again; "
                    "check that the sweep's function has sqs:GetQueueAttributes",
                    extra={"queue": queue, "error": str(error)},
                )
        except BotoCoreError as error:
            self.silent = self.following.is_due = True
            telemetry.logger().error(SILENT, extra={"error": str(error)})
        return None

    def _give_back(self, taken: Sequence[Taken], failed: Mapping[int, str], accepting: set[str]) -> None:
        self.unsent += len(failed)
        self.silent = not accepting and all(why.startswith(NO_ANSWER) for why in failed.values())
        if self.silent:
            telemetry.logger().error(SILENT, extra={"error": next(iter(failed.values()))})
        counts = Counter(taken[position].entry.queue for position in failed)
        reasons = {taken[position].entry.queue: why for position, why in failed.items()}
        for queue, why in reasons.items():
            if queue not in accepting and not self.silent:
                self._refuse(queue, counts[queue], why)
        given = [taken[position] for position in failed]
        items = [{"id": one.id, "taken": one.taken, "before": one.before} for one in given]
        run_rows(self.connection, GIVE_BACK, items)

    def _refuse(self, queue: str, messages: int, why: str) -> None:
        self.refused[queue] = why
        self.following.is_due = True
        telemetry.logger().error(
            "SQS refuses a queue; its tasks wait, and every sweep tries again. Check that the queue exists (was its "
            "type removed?), and its policy and key",
            extra={"queue": queue, "messages": messages, "error": why},
        )


def body_of(connection: Connection, message: Message) -> str | None:
    """Return the body of a row's message. None if no worker could read it: the row is logged and left."""
    try:
        body = message.encode()
        decode(body)
    except (MessageError, TypeError, ValueError) as error:
        leave_row(connection, str(message.id), text_of(error))
        return None
    return body


def group_of(tenant: str | None) -> str | None:
    """Return a tenant as a message group; None for a name that SQS refuses, which a row may have by hand."""
    return tenant if tenant and TENANT_PATTERN.fullmatch(tenant) else None
