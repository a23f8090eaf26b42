"""The router: sends the messages of a front door to the lanes of their types.

No message is dropped. A body that cannot be read goes to the front door's dead letters with the reason. A message of an
unknown type waits up to an hour, because a deploy may be under way, and then goes to the dead letters too.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from joblane import telemetry
from joblane.names import Queue, lane_name
from joblane.sqs.client import Entry, Sqs
from joblane.sqs.dead_letter import NO_ROOM, fits, refused_dead_letter, with_id
from joblane.sqs.message import TICK_ID_PATTERN, TICK_ID_REFUSED, Received
from joblane.worker.invocation import BatchResponse, Invocation

PATIENCE_SECONDS = 3600
WAIT_SECONDS = 60


class Router:
    """``routes``: each type that accepts external messages → its queues, home queue first.

    ``unknown``: what is wrong with another type, after the words "no task 'data:export'".
    """

    def __init__(
        self,
        routes: Mapping[str, Sequence[str]],
        sqs: Sqs,
        prefix: str,
        unknown: str = "takes messages from a front door",
    ) -> None:
        self._routes = {type_: [Queue(queue) for queue in queues] for type_, queues in routes.items()}
        self._sqs = sqs
        self._prefix, self._problem = prefix, unknown
        self._logger = telemetry.logger()

    @property
    def types(self) -> Collection[str]:
        """The types that the front doors accept."""
        return self._routes.keys()

    def handle(self, deliveries: Sequence[Received], _invocation: Invocation | None = None) -> BatchResponse:
        """Forward the messages of one front door. It runs no task, so that it needs no invocation."""
        response, forwarded = BatchResponse(), list[Received]()
        for delivery in deliveries:
            if not self._is_early(delivery):
                forwarded.append(delivery)
                continue
            response.keep(delivery, WAIT_SECONDS)
            if delivery.receives == 1 and delivery.message is not None:
                self._logger.warning(
                    f"{self._unknown(delivery.message.type)}; the message waits an hour for a deploy of the type, then "
                    "it is a dead letter",
                    extra={"message_id": delivery.message_id, "queue": delivery.queue},
                )
        failed = self._sqs.send_many([self._entry(delivery) for delivery in forwarded]) if forwarded else {}
        for position, why in failed.items():
            delivery = forwarded[position]
            self._logger.error(
                "a message could not be forwarded", extra={"message_id": delivery.message_id, "error": why}
            )
            response.keep(delivery, WAIT_SECONDS)
        if response.visibility:
            self._sqs.set_visibility(deliveries[0].queue, response.visibility)
        return response

    def _is_early(self, delivery: Received) -> bool:
        """True if the message's type may still be deployed."""
        import time

        unknown = delivery.message is not None and delivery.message.type not in self._routes
        return unknown and time.time() - delivery.sent_at < PATIENCE_SECONDS

    def _unknown(self, type_: str) -> str:
        """Return the problem of a type without a route, with the types whose names are similar."""
        from difflib import get_close_matches

        near = get_close_matches(type_, self._routes, n=1, cutoff=0.75)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"no task {type_!r} {self._problem}{hint}"

    def _entry(self, delivery: Received) -> Entry:
        route = self._route(delivery)
        return route if isinstance(route, Entry) else refused_dead_letter(delivery, route)

    def _route(self, delivery: Received) -> Entry | str:
        """Return the entry for the message's lane, or the reason to refuse the message."""
        message = delivery.message
        if message is None:
            return f"MessageError: {delivery.refusal}"
        if message.type not in self._routes:
            return f"UnknownType: {self._unknown(message.type)}"
        if message.tick is not None or TICK_ID_PATTERN.fullmatch(message.id or ""):
            return TICK_ID_REFUSED
        queues = self._routes[message.type]
        front_door = delivery.queue.rpartition("-")[2]
        queue = next((queue for queue in queues if queue == front_door), queues[0])
        # An external message has no row, so it must not claim to have one.
        entry = with_id(
            replace(delivery, message=replace(message, rec=False)), lane_name(self._prefix, queue, message.type)
        )
        return entry if fits(entry) else NO_ROOM
