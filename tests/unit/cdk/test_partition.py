"""Each task type has its part for ever, and no part gets more types than a stack can hold."""

from __future__ import annotations

import random
import string
from collections import Counter

from joblane.cdk.constructs.nested_stacks import PARTS, part_of

TYPES_IN_A_STACK = 50
"""Types of ten resources, of which a stack holds 500. Source: CloudFormation quotas."""


def test_a_types_part_never_changes() -> None:
    # a change of these numbers would move queues between stacks of every deployed stage, and lose their messages
    assert {type_: part_of(type_) for type_ in ("data:export", "jobs:bulk", "jobs:sweep", "report:generate")} == {
        "data:export": 10,
        "jobs:bulk": 11,
        "jobs:sweep": 7,
        "report:generate": 14,
    }


def test_hundreds_of_types_leave_room_in_every_part() -> None:
    for seed in range(50):
        names = random.Random(seed)
        types = {f"{_word(names)}:{_word(names)}" for _ in range(400)}
        sizes = Counter(part_of(type_) for type_ in types)
        assert max(sizes.values()) < TYPES_IN_A_STACK


def test_names_that_differ_in_a_number_are_spread_too() -> None:
    sizes = Counter(part_of(f"tenant:step_{number}") for number in range(400))
    assert len(sizes) == PARTS
    assert max(sizes.values()) < TYPES_IN_A_STACK


def _word(names: random.Random) -> str:
    return "".join(names.choices(string.ascii_lowercase, k=10))
