"""Lambda's recursive loop detection, for the queues on this machine.

The trace header of a message has a count for each function that was invoked in its chain of messages. A message that a
function sends with the header of its invocation stays in the chain. Lambda refuses to invoke a function for the
seventeenth time in a chain, so the message stays in its queue until SQS moves it to the dead letters. Source: Lambda,
*Use Lambda recursive loop detection*.

AWS does not document how the header separates counts, nor how Lambda counts a batch from different chains. Here the
field ``Lineage`` has the counts separated by ``|``, and the highest count of the batch decides.

Standard library only: the emulator's interpreter runs it without a package of this project.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterable

MOST_INVOCATIONS = 16
"""The invocations of a function in one chain."""
COUNT = re.compile(r"1:([0-9a-f]{8}):([0-9]{1,9})")
REFUSED = (
    f"Lambda would not invoke {{function}}: it was invoked {MOST_INVOCATIONS} times in one chain of messages, each "
    "sent by the invocation before. The message stays in its queue until SQS moves it to the dead letters. End the "
    "chain; if it is meant to be so long, declare a larger max_depth on the task"
)


def invocation_header(function: str, headers: Iterable[str | None], *, allows_loops: bool = False) -> str | None:
    """Return the trace header of an invocation of ``function``, or None if Lambda refuses it.

    Args:
        function: The function's name.
        headers: The trace headers of the messages of the batch. None, or a header that cannot be read: the message
            begins a chain.
        allows_loops: True for a function with ``RecursiveLoop: Allow``.
    """
    counts: dict[str, int] = {}
    for header in headers:
        for name, count in COUNT.findall((header or "").partition("Lineage=")[2].partition(";")[0]):
            counts[name] = max(counts.get(name, 0), int(count))
    own = hashlib.sha256(function.encode()).hexdigest()[:8]
    counts[own] = counts.get(own, 0) + 1
    if counts[own] > MOST_INVOCATIONS and not allows_loops:
        return None
    lineage = "|".join(f"1:{name}:{count}" for name, count in counts.items())
    root, parent = f"1-{int(time.time()):08x}-{secrets.token_hex(12)}", secrets.token_hex(8)
    return f"Root={root};Parent={parent};Sampled=0;Lineage={lineage}"
