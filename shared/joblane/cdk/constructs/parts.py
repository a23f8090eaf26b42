"""The nested stacks that hold the resources of the task types."""

from __future__ import annotations

from collections.abc import Sequence

from aws_cdk import CfnResource, NestedStack
from constructs import Construct

from joblane.cdk.partition import part_of


class Parts(Construct):
    """A scope for the resources of each type: in one of the nested stacks, or in this construct if ``flat``.

    A nested stack is created with its first type. ``after``: resources that exist before any nested stack.
    """

    def __init__(
        self, scope: Construct, id_: str, *, flat: bool, description: str, after: Sequence[CfnResource] = ()
    ) -> None:
        super().__init__(scope, id_)
        self._flat, self._description, self._after = flat, description, after
        self._stacks: dict[int, NestedStack] = {}
        self._scopes: dict[str, Construct] = {}

    def scope_of(self, type_: str, id_: str) -> Construct:
        """Return the scope of ``type_``, with the id ``id_``."""
        if type_ not in self._scopes:
            self._scopes[type_] = Construct(self if self._flat else self._stack_of(type_), id_)
        return self._scopes[type_]

    def stack_of(self, type_: str) -> CfnResource | None:
        """Return the resource of the nested stack that has ``type_``. None if the stage is flat."""
        return None if self._flat else self._stack_of(type_).nested_stack_resource

    def _stack_of(self, type_: str) -> NestedStack:
        part = part_of(type_)
        if part not in self._stacks:
            stack = NestedStack(self, f"Part{part:02}", description=f"{self._description}, part {part}")
            for resource in self._after:
                stack.nested_stack_resource.add_dependency(resource)  # type: ignore[union-attr] # it is nested
            self._stacks[part] = stack
        return self._stacks[part]
