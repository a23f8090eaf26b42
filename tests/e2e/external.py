"""The end-to-end tests on an emulator that already runs, named by ``JOBLANE_EXTERNAL_ENDPOINT``.

Each run has a prefix of its own, so that no queue, function or log group of an earlier run has its names. The stacks of
earlier runs are deleted: their functions would poll their queues for a database that has stopped.
"""

from __future__ import annotations

import os
import secrets
from contextlib import closing
from typing import Any

from tests.patience import await_true

ENDPOINT = "JOBLANE_EXTERNAL_ENDPOINT"
PREFIX = "joblane-test"
MODULES = ("test_jobs.py", "test_redrive.py", "test_command_line.py", "test_inspector.py")
"""The modules that need no more than what :doc:`/how-to/local-stack` asks of an emulator."""


def endpoint() -> str | None:
    """Return the address of the running emulator; None: the tests start one."""
    return os.environ.get(ENDPOINT) or None


def new_prefix() -> str:
    """Return a prefix of fixed length: no prefix may be the beginning of another."""
    return f"{PREFIX}-{secrets.token_hex(2)}"


def delete_stages(address: str) -> None:
    """Delete the stacks of all runs, those of killed runs too. No other run may use the emulator.

    Raises ``AssertionError`` if a stack is still there after :data:`~tests.patience.PATIENCE_SECONDS`.
    """
    import boto3

    def client(service: str) -> Any:
        test = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        return closing(boto3.client(service, endpoint_url=address, **test))  # type: ignore[call-overload]

    with client("cloudformation") as cloudformation, client("s3") as s3:

        def found() -> dict[str, Any]:
            pages = cloudformation.get_paginator("describe_stacks").paginate()
            stacks = [stack for page in pages for stack in page["Stacks"] if stack["StackStatus"] != "DELETE_COMPLETE"]
            return {stack["StackName"]: stack for stack in stacks if stack["StackName"].startswith(f"{PREFIX}-")}

        def await_none(status: str, *names: str) -> None:
            def left() -> list[str]:
                return [name for name, stack in found().items() if name in names and status in stack["StackStatus"]]

            await_true(lambda: not left(), lambda: f"these stacks of an earlier run are not deleted: {left()}")

        await_none("_IN_PROGRESS", *found())  # the deploy of a killed run continues in the emulator
        for stack in sorted(found().values(), key=lambda stack: stack["CreationTime"], reverse=True):
            for output in stack.get("Outputs", []):
                if output["OutputKey"] == "ExportBucket":
                    _empty(s3, output["OutputValue"])
            cloudformation.delete_stack(StackName=stack["StackName"])
            await_none("", stack["StackName"])


def _empty(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for version in (*page.get("Versions", []), *page.get("DeleteMarkers", [])):
            s3.delete_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
