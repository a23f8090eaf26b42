"""Sends messages by boto3 alone, with documented names of botocore only, if the fast sender cannot work."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from botocore import __version__ as botocore_version

from joblane import telemetry
from joblane.settings import SENDER

if TYPE_CHECKING:
    from collections.abc import Mapping

    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_sqs import SQSClient

METHODS = {
    "SendMessage": "send_message",
    "SendMessageBatch": "send_message_batch",
    "GetQueueAttributes": "get_queue_attributes",
}
"""Operation → the method of boto3's client."""
TRACE = "X-Amzn-Trace-Id"
FALLBACK = (
    "joblane's own sender does not know this version of botocore or urllib3, so boto3 sends the messages, with twice "
    f"the processor time. Install the previous version, or update joblane. {SENDER}=boto3 removes this warning"
)
TESTED = (1, 40), (1, 44)
"""The lowest and the newest minor version of botocore with which the tests run, as in ``pyproject.toml`` and in the
lock file. A patch release changes the models of services."""
LAMBDA_VARIABLE, LAMBDA = "AWS_EXECUTION_ENV", "AWS_Lambda_"
"""Source: Lambda, *Defined runtime environment variables*."""
UNTESTED = (
    "the botocore of Lambda's runtime is not in the range that joblane was tested with. If sends fail, return to the "
    f"previous version of the runtime, or set {SENDER}=boto3; then update joblane"
)
MISMATCH = (AttributeError, ImportError, TypeError)
"""The errors of a name that is missing, or that takes other arguments."""
_logged = threading.Lock()
"""Held once the line is logged."""
_compared = threading.Lock()
"""Held once the version is compared."""


class Boto3Sender:
    """Sends messages as ``client`` does, with the same arguments, answers and errors."""

    def __init__(self, client: SQSClient) -> None:
        self.client = client
        self._first = threading.local()
        """``keeps_chain``: False if boto3 makes a request without the trace header, in this thread."""
        for operation in METHODS:
            client.meta.events.register_first(f"before-send.sqs.{operation}", self._before_send)

    def send(self, operation: str, arguments: Mapping[str, Any], *, keeps_chain: bool = True) -> Mapping[str, Any]:
        """Send one message or one batch, or read the attributes of a queue. ``operation``: of :data:`METHODS`.

        ``keeps_chain`` False: without the trace header, in which Lambda counts the invocations of a chain.

        Raises botocore's errors.
        """
        return self._by_boto3(operation, arguments, keeps_chain)

    def _by_boto3(self, operation: str, arguments: Mapping[str, Any], keeps_chain: bool = True) -> Mapping[str, Any]:
        outer = getattr(self._first, "keeps_chain", True)  # a signal handler may send another message
        self._first.keeps_chain = keeps_chain
        try:
            answer: Mapping[str, Any] = getattr(self.client, METHODS[operation])(**arguments)
        finally:
            self._first.keeps_chain = outer
        return answer

    def _before_send(self, request: AWSPreparedRequest, event_name: str, **_: object) -> Any:
        """Remove the trace header of a message that starts a chain of its own."""
        if not getattr(self._first, "keeps_chain", True):
            headers: Any = request.headers
            headers.pop(TRACE, None)  # whatever has added it; the signature does not include it
        return None


def log_fallback(error: Exception) -> None:
    """Log, once in a process, that boto3 sends although nothing asks for it."""
    if _logged.acquire(blocking=False):
        what = str(error) if isinstance(error, MISMATCH) else ""  # the text of another error may have a value
        fields = {"error_type": type(error).__name__, "error": f"botocore {botocore_version}: {what}"}
        telemetry.logger().warning(FALLBACK, extra=fields)


def log_untested() -> None:
    """Log, once in an environment of Lambda, a botocore that the tests do not run with: AWS updates it by itself."""
    if not os.environ.get(LAMBDA_VARIABLE, "").startswith(LAMBDA) or not _compared.acquire(blocking=False):
        return
    lowest, newest = TESTED
    major, minor = (int(part) if part.isdigit() else 0 for part in f"{botocore_version}..".split(".")[:2])
    if not lowest <= (major, minor) <= newest:
        tested = " to ".join(f"{major}.{minor}" for major, minor in TESTED)
        telemetry.logger().warning(UNTESTED, extra={"botocore": botocore_version, "tested": tested})
