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

from aws_cdk import NestedStack
from constructs import Construct

PARTS = 16


def part_of(type_: str) -> int:
    """Return the part, 0 to 15, in which the resources of ``type_`` are. It depends on the type's name only."""
    return sha256(type_.encode()).digest()[0] % PARTS


class Parts(Construct):
    """A scope for the resources of each type: in one of the nested stacks, or in this construct if ``flat``.

    A nested stack is created with its first type. ``description``: of the nested stacks.
    """

    def __init__(self, scope: Construct, id_: str, *, flat: bool, description: str) -> None:
        super().__init__(scope, id_)
        self._flat, self._description = flat, description
        self._stacks: dict[int, NestedStack] = {}

    def new_scope(self, type_: str, id_: str) -> Construct:
        """Return a new scope with the id ``id_`` in the part of ``type_``."""
        if self._flat:
            return Construct(self, id_)
        part = part_of(type_)
        if part not in self._stacks:
            self._stacks[part] = NestedStack(
                self, f"Part{part:02}", description=f"{self._description}, part {part} of {PARTS}"
            )
        return Construct(self._stacks[part], id_)
