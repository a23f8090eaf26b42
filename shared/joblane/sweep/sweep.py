"""The sweep finds the tasks for which a message is missing, and sends it.

``tasks.sweep_at`` is the time from which a task needs the sweep:

- waiting: it has no message and is due within 15 minutes, or its message should have been claimed by now. A task whose
  message came to a place that its type has left has no message, see :mod:`joblane.worker.parking`.
- active: the lease has ended. The message's claim finds that the run was lost.
- archived: the dead letter is not marked as sent.

The sweep moves the ``sweep_at`` of the tasks that it takes, so that two sweeps at once share the work, and a later
sweep takes the tasks of a sweep that was killed. An extra message does no harm, because both have the same task id.

Its duties take turns, a batch each, so that none waits for the end of another, see :mod:`joblane.sweep.duties`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from joblane.record.driver.connection import Connection
from joblane.sqs.client import Sqs
from joblane.sweep.duties import Duties
from joblane.sweep.events import Events
from joblane.sweep.expiry import Expiry, tidy
from joblane.sweep.held import CHANGES, HELD_TASKS, PAUSED_SLOTS, UNCLAIMED, Held
from joblane.sweep.messages import DUE_MESSAGES, Messages
from joblane.sweep.next_sweep import NextSweep
from joblane.sweep.parents import ENDED_PARENTS, Parents
from joblane.sweep.rates import TIMES_OF_RATES, Rates
from joblane.sweep.sends import Sends
from joblane.sweep.signals import UNHEARD, Signals
from joblane.sweep.unsent_dead_letters import UNSENT, UnsentDeadLetters
from joblane.sweep.walk import PLANNING, RESET_PLANNING, Walk

if TYPE_CHECKING:
    from joblane.enqueue.event_bus import EventBus


@dataclass
class Swept:
    """The result of one sweep. ``unsent``: messages that SQS did not accept; the next sweep sends them again.

    ``paused``: due tasks that are paused. ``served``: tasks that waited for a limit although it had a slot for them.
    ``released``: tasks that waited for parents which had ended.
    ``woken``: tasks that waited for a signal that was there.
    ``overdue``: the number of tasks that were due, not started and not paused. A task is overdue when it has been due
    for a minute. After each further message it is not counted until its next ``sweep_at``.
    ``waits``: type → the longest wait of these tasks in seconds, including those with a further message. ``stuck``:
    runs whose lease ended ten minutes ago and that no claim has found lost. These three are ignored when two results
    are compared.
    ``events``: sent events. ``events_dropped``: events that were kept for too long. ``events_waiting``: events that are
    left. ``events_oldest_seconds``: the age of the oldest one. ``events_refusal``: why the bus did not accept events;
    None: it accepted all. The last three are ignored when two results are compared.
    ``failed``: the duties that failed, which the log explains.
    """

    sent: int = 0
    dead_letters: int = 0
    paused: int = 0
    unsent: int = 0
    cleared: int = 0
    removed: int = 0
    served: int = 0
    released: int = 0
    woken: int = 0
    overdue: int = field(default=0, compare=False)
    waits: dict[str, int] = field(default_factory=dict, compare=False)
    stuck: int = field(default=0, compare=False)
    events: int = 0
    events_dropped: int = 0
    events_waiting: int = field(default=0, compare=False)
    events_oldest_seconds: int = field(default=0, compare=False)
    events_refusal: str | None = field(default=None, compare=False)
    failed: list[str] = field(default_factory=list)


def sweep(
    connection: Connection,
    sqs: Sqs,
    prefix: str,
    *,
    bus: EventBus | None = None,
    may_continue: Callable[[], bool] = lambda: True,
    following: NextSweep | None = None,
    duties: Duties | None = None,
) -> Swept:
    """Sweep in batches, each in its own transaction, until nothing is due or ``may_continue()`` is false.

    ``bus`` None: the stage has none, and events are deleted. ``following`` gets the times of what will need a sweep
    again. None: the caller plans none. ``duties``: the caller's, with the same ``following``.

    Raises pg8000's errors if the connection is broken. The error of a duty is logged, see :class:`Duties`.
    """
    following = following or NextSweep()
    duties = duties or Duties(connection, following)
    walk, sends = Walk(connection, prefix, following), Sends(connection, sqs, following)
    expiry, rates = Expiry(connection), Rates(duties)
    waiting, parents, events = Held(prefix, sends, duties), Parents(prefix, sends, duties), Events(connection, bus)
    signals = Signals(prefix, sends, duties)
    on_page: dict[str, Callable[[], None]] = {
        "tasks ended by SQL": lambda: tidy(connection, walk.ended),
        PAUSED_SLOTS: lambda: waiting.leave(walk.idle),
    }
    messages = Messages(prefix, walk, sends, duties, on_page)
    dead_letters = UnsentDeadLetters(prefix, sends, duties)
    connection.execute_simple(PLANNING)
    try:
        duties.run("open transactions", lambda: following.begin(connection), None)
        duties.run(CHANGES, waiting.end_changes, None)
        steps = {
            TIMES_OF_RATES: rates.steps(),  # first, because the walk reads the times of tasks
            DUE_MESSAGES: messages.steps(),
            UNSENT: dead_letters.steps(),
            "expired tasks": expiry.steps(),
            UNCLAIMED: waiting.take_back(),
            HELD_TASKS: waiting.steps(),
            ENDED_PARENTS: parents.steps(),
            "events": events.steps(),
            UNHEARD: signals.steps(),
        }
        following.is_late |= not duties.take_turns(steps, may_continue)
        duties.run("events", events.measure, None)
        following.is_due |= events.waiting > 0
        duties.run("times of the next sweep", lambda: following.collect(connection, has_paused=walk.paused > 0), None)
    finally:
        if connection.usable:
            connection.execute_simple(RESET_PLANNING)
    return Swept(
        messages.sent,
        dead_letters.sent,
        walk.paused,
        sends.unsent,
        expiry.cleared,
        expiry.removed,
        waiting.served,
        parents.released,
        signals.woken,
        walk.overdue,
        walk.waits,
        walk.stuck,
        events.sent,
        events.dropped,
        events.waiting,
        events.oldest_seconds,
        events.refusal,
        list(duties.failed),
    )
