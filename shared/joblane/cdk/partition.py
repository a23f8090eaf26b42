"""The division of a stage's task types over a fixed number of nested stacks.

CloudFormation accepts 500 resources in a stack. A type with one lane and one schedule has ten: log group, role,
function, mapping, two queues and their policy, the producers' policy, and the schedule with its role. Fifty such types
fill a stack.

The number of parts is fixed, because every other number would move types between stacks, and a queue cannot move with
its messages. With 16 parts, 400 types of ten resources are 25 a part on average, and the chance that any part reaches
50 is one in ten thousand. CloudFormation changes 2,500 resources of a stack and its nested stacks in one operation,
which a stage reaches first, at about 240 such types. A stage with few types has only the parts that it needs: at most
one for each type.

Source: CloudFormation quotas: *Resources*, *Nested stacks*.
"""

from __future__ import annotations

from hashlib import sha256

PARTS = 16


def part_of(type_: str) -> int:
    """Return the part, 0 to 15, in which the resources of ``type_`` are. It depends on the type's name only."""
    return sha256(type_.encode()).digest()[0] % PARTS
