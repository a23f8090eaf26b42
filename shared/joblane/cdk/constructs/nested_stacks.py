"""The nested stacks that hold the resources of the task types."""

from __future__ import annotations

from aws_cdk import NestedStack
from constructs import Construct

from joblane.cdk.partition import PARTS, part_of


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
        return Construct(self if self._flat else self._stack_of(part_of(type_)), id_)

    def _stack_of(self, part: int) -> NestedStack:
        if part not in self._stacks:
            self._stacks[part] = NestedStack(
                self, f"Part{part:02}", description=f"{self._description}, part {part} of {PARTS}"
            )
        return self._stacks[part]
