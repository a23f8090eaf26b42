"""A local stack for end-to-end tests: the app, deployed to the emulator, and a database with a tenant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from joblane.local.stack import LocalStack
from joblane.local.tools import environment_of
from joblane.record.driver.database import Database
from saas.demo.services import People
from tests.e2e import external
from tests.patience import await_true

if TYPE_CHECKING:
    from mypy_boto3_sqs import SQSClient

STAGE = {"api": {"authorizer": {"kind": "iam"}}}
"""The emulator accepts any signature as that of the identity it names, and accepts no tokens."""

HERE = Path(__file__).parent
IN_BATCHES = ("sqs:SendMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility")


@dataclass
class Deployed:
    """A running stack, with methods to send messages and to read results."""

    stack: LocalStack
    sqs: SQSClient
    people: People
    database: Database

    def named(self, queue: str) -> str:
        """Return the name of a queue with the prefix. ``queue``: such as ``default`` or ``default-data-export-dlq``."""
        return f"{self.stack.prefix}-{queue}"

    def send(self, queue: str, body: str | dict[str, Any], **options: Any) -> str:
        """Send by plain boto3. Return the SQS message id."""
        text = body if isinstance(body, str) else json.dumps(body)
        return self.sqs.send_message(QueueUrl=self.url(queue), MessageBody=text, **options)["MessageId"]

    def url(self, queue: str) -> str:
        return self.sqs.get_queue_url(QueueName=queue)["QueueUrl"]

    def export(self, **payload: str) -> dict[str, Any]:
        """Return a valid `data:export` message without an id."""
        known = {"tenant_id": str(self.people.acme), "user_id": str(self.people.user), "export_type": "partial"}
        return {"type": "data:export", "payload": known | payload}

    def row(self, id_: str) -> dict[str, Any] | None:
        rows = self.database.get().run("select to_jsonb(t) from joblane.tasks t where id = $1", id_)
        return rows[0][0] if rows else None

    def await_state(self, id_: str, state: str) -> dict[str, Any]:
        """Wait until the task is in ``state``, and return its row."""
        await_true(lambda: (self.row(id_) or {}).get("state") == state, lambda: f"{id_} is {self.row(id_)}")
        row = self.row(id_)
        assert row is not None
        return row

    def await_dead_letter(self, queue: str, text: str) -> dict[str, Any]:
        """Take the dead letter that contains ``text`` from a dead-letter queue."""
        found: list[dict[str, Any]] = []

        def received() -> bool:
            answer = self.sqs.receive_message(
                QueueUrl=self.url(queue), MaxNumberOfMessages=10, VisibilityTimeout=2, MessageAttributeNames=["All"]
            )
            for message in answer.get("Messages", []):
                if text in message["Body"]:
                    self.sqs.delete_message(QueueUrl=self.url(queue), ReceiptHandle=message["ReceiptHandle"])
                    found.append(dict(message))
            return bool(found)

        await_true(received, lambda: f"no dead letter with {text} in {queue}")
        return found[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On an external emulator skip the tests that need more than it must have."""
    if external.endpoint():
        for item in items:
            if item.path.parent == HERE and item.path.name not in external.MODULES:
                item.add_marker(pytest.mark.skip(f"not for the emulator of {external.ENDPOINT}"))


@pytest.fixture(scope="package")
def one_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """The current app on an emulator and a database for these tests.

    Without an external emulator, one is started, which enforces the roles of the functions.
    """
    import boto3
    from sqlalchemy import create_engine
    from sqlalchemy.orm import Session

    folder = tmp_path_factory.mktemp("stack")
    settings = {"EMAIL_CONSOLE_DIR": str(folder / "mail")}
    if endpoint := external.endpoint():
        stack = LocalStack(
            folder, settings=settings, prefix=external.new_prefix(), external_endpoint=endpoint, detached=False
        )
    else:
        stack = LocalStack(folder, settings=settings, prefix="other", stage=STAGE, detached=False, permissions=True)
    with ExitStack() as cleanup:
        cleanup.callback(stack.down)
        if endpoint:
            external.delete_stages(endpoint)
            cleanup.callback(external.delete_stages, endpoint)
        with pytest.MonkeyPatch.context() as patch:  # the command line sets these, too
            for name, value in stack.project.migration_environment.items():
                patch.setenv(name, value)
            stack.up()
        people = People()
        engine = create_engine(stack.database_url.replace("postgresql://", "postgresql+pg8000://"))
        with Session(engine) as session:
            people.sign_up(session)
            session.commit()
        engine.dispose()
        database = Database(stack.database_url)
        cleanup.callback(database.drop)
        with environment_of(stack.environment):
            if not endpoint:
                allow_batches()
            sqs = boto3.client("sqs")
        cleanup.callback(sqs.close)
        yield Deployed(stack, sqs, people, database)


@pytest.fixture
def deployed(one_stack: Deployed) -> Iterator[Deployed]:
    """The stack, with its variables in the environment during the test."""
    with environment_of(one_stack.stack.environment):
        yield one_stack


def allow_batches() -> None:
    """Add the batch actions to all roles: on AWS one permission covers both, and the emulator requires two."""
    import boto3

    iam = boto3.client("iam")
    for role in iam.list_roles()["Roles"]:
        own = role["RoleName"]
        for name in iam.list_role_policies(RoleName=own)["PolicyNames"]:
            policy = iam.get_role_policy(RoleName=own, PolicyName=name)["PolicyDocument"]
            for statement in policy["Statement"]:
                actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
                statement["Action"] = [*actions, *(f"{action}Batch" for action in actions if action in IN_BATCHES)]
            iam.put_role_policy(RoleName=own, PolicyName=name, PolicyDocument=json.dumps(policy))
    iam.close()
