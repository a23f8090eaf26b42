"""The commands of a page, as a reader runs them: the blocks of its numbered steps, in order."""

from __future__ import annotations

import re
from itertools import takewhile
from pathlib import Path

from tests.pages import Block, blocks

STEP = re.compile(r"^## (.*)$", re.M)
TAKES_DOWN = "cdk destroy"


def steps(page: Path) -> tuple[list[Block], list[Block]]:
    """Return the blocks of the numbered steps, and separately those from the first ``cdk destroy`` on."""
    lines = page.read_text(encoding="utf-8").splitlines()

    def is_step(block: Block) -> bool:
        headings = [found[1] for line in lines[: block.line] if (found := STEP.match(line))]
        return bool(headings) and headings[-1][0].isdigit()

    path = [block for block in blocks("sh", page) if is_step(block)]
    up = list(takewhile(lambda block: TAKES_DOWN not in block.text, path))
    return up, path[len(up) :]
