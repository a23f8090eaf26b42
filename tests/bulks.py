"""Running bulk actions in a test: the task as it is declared, over the test's declarations, queues and record."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from joblane.functions.jobs_bulk import handler
from joblane.sqs.client import Sqs
from joblane.tasks.task import Task
from joblane.testing.faults import Send
from tests import samples
from tests.builders.events import record
from tests.world import World, handle

RECORD = "bulks"
TASKS = {
    task.type: task
    for task in (
        samples.sample_one,
        samples.sample_batch,
        samples.sample_only,
        samples.sample_forgotten,
        samples.sample_tick,
        samples.sample_watched,
        samples.sample_alert,
        handler.jobs_bulk,
    )
}
"""The declared tasks of these tests."""


@dataclass
class Bulks:
    """``message_id``: of the message that starts a run."""

    world: World
    task: Task[Any, Any] = handler.jobs_bulk
    message_id: str = "00000000-0000-4000-8000-0000000000bb"

    def run(
        self,
        id_: str,
        *,
        seconds: float = 60.0,
        after_commits: Mapping[int, Callable[[], object]] | None = None,
    ) -> list[str]:
        """Invoke the task's function once. ``after_commits``: what happens after which commit of the run, from 1.

        Returns the message ids that stay in the queue.
        """
        commits = 0

        def hook(sql: str, send: Send) -> Any:
            nonlocal commits
            answer = send()
            if sql == "commit":
                commits += 1
                (after_commits or {}).get(commits, lambda: None)()
            return answer

        self.world.run("update joblane.tasks set due_at = clock_timestamp() where id = $1 and state = 'pending'", id_)
        with self.world.rival(self.task, hook) as worker:
            message = record({"type": self.task.type, "id": id_, "rec": True}, self.lane, message_id=self.message_id)
            return handle(worker, message, seconds=seconds)

    @property
    def lane(self) -> str:
        return self.world.lane(self.task)

    @property
    def sqs(self) -> Sqs:
        return self.world.sqs

    def waiting(self) -> list[dict[str, Any]]:
        """Messages that would start runs."""
        return self.world.received(self.lane)
