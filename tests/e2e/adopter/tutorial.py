"""``docs/tutorial.md``, followed: its files are written, its commands are run, and its outputs are compared."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from tests.pages import FENCE, ROOT

PAGE = ROOT / "docs" / "tutorial.md"
FILE = re.compile(r"# (\S+\.py)(?:, (.+))?\n")
"""The first line of a block of Python: which file it is, or which part of it."""
ELLIPSIS = "…"
ID = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27}")
FINGERPRINT = re.compile(r"\b[0-9a-f]{16}\b")


class Shell(Protocol):
    """Runs a command in the project's folder; returns its exit status and what it prints, on both outputs."""

    def __call__(self, *command: str, **variables: str) -> tuple[int, str]: ...


class Tutorial:
    """A reader of the page, who follows one section after another.

    A section's blocks of Python are files. Its commands share the variables that they set, as in one shell.
    """

    def __init__(self, folder: Path, shell: Shell) -> None:
        self._folder, self._shell = folder, shell
        self._fingerprint = ""
        self._variables = folder / ".joblane" / "tutorial.sh"

    def follow(self, heading: str, **variables: str) -> str:
        """Follow a section; return the output of its last block of commands."""
        output, status = "", 0
        for language, mark, text in _section(heading):
            match language, mark:
                case "python", "":
                    self._write(text)
                case "sh", "":
                    assert status == 0, output  # a command that fails needs its output in the page
                    status, output = self._run(text, variables)
                case "text", "":
                    differs = difference(_sorted_steps(text), _sorted_steps(output))
                    assert differs is None, f"{heading}: {differs}\n{output}"
                    status = 0
        assert status == 0, output
        return output

    def _write(self, text: str) -> None:
        first = FILE.match(text)
        assert first, text
        path, part, source = self._folder / first[1], first[2], text[first.end() :]
        path.parent.mkdir(parents=True, exist_ok=True)
        match part:
            case None:
                path.write_text(source)
            case "at the end":
                path.write_text(f"{path.read_text()}\n\n{source}")
            case "the last function":
                path.write_text(path.read_text().rpartition("\ndef ")[0] + f"\n{source}")
            case _:
                raise AssertionError(part)

    def _run(self, text: str, variables: Mapping[str, str]) -> tuple[int, str]:
        if self._fingerprint:
            text = FINGERPRINT.sub(self._fingerprint, text)
        kept = f"'{self._variables}'"
        script = f"[ -e {kept} ] && . {kept} 2>/dev/null\n{text}\nstatus=$?\nexport -p >{kept}\nexit $status"
        self._variables.parent.mkdir(exist_ok=True)
        status, output = self._shell("bash", "-ac", script, PYTHONUNBUFFERED="1", **variables)
        found = FINGERPRINT.findall(output)
        self._fingerprint = found[0] if found else self._fingerprint
        return status, output


def _section(heading: str) -> Iterator[tuple[str, str, str]]:
    """Language, mark and text of each block of code below a heading."""
    page = PAGE.read_text()
    [section] = [part for part in re.split(r"^## ", page, flags=re.M) if part.startswith(f"{heading}\n")]
    for block in FENCE.finditer(section):
        yield block[2], block[3].strip(), block[4]


def _sorted_steps(text: str) -> str:
    """The output with the lines of finished steps in order: several steps run at a time."""
    lines = text.splitlines(keepends=True)
    steps = [number for number, line in enumerate(lines) if line.startswith("  ✓ ")]
    for number, line in zip(steps, sorted(lines[number] for number in steps), strict=True):
        lines[number] = line
    return "".join(lines)


def difference(page: str, printed: str) -> str | None:
    """Return the first line of an output of the page that is not what was printed; None if all are.

    ``…`` stands for any part of a line, or for any lines; ids, fingerprints and the width of columns may differ. The
    time grows with the product of both lengths, whatever differs.
    """
    expected, found = _comparable(page), _comparable(printed)
    here = there = again = 0
    omitted, furthest = -1, (0, 0)
    while here < len(expected) or there < len(found):
        line = expected[here] if here < len(expected) else None
        furthest = max(furthest, (here, there))
        if line == ELLIPSIS:
            omitted, here, again = here, here + 1, there
        elif line is not None and there < len(found) and _is_same(line, found[there]):
            here, there = here + 1, there + 1
        elif omitted >= 0 and again < len(found):  # one more line is omitted
            again += 1
            here, there = omitted + 1, again
        else:
            ours, theirs = ([*lines, "the end"][at] for lines, at in zip((expected, found), furthest, strict=True))
            return f"the page has {ours!r}, and printed was {theirs!r}"
    return None


def _comparable(text: str) -> list[str]:
    masked = FINGERPRINT.sub("0" * 16, ID.sub("0" * 8, text))
    return [" ".join(line.split()) for line in masked.splitlines()]


def _is_same(line: str, printed: str) -> bool:
    return fnmatchcase(printed, glob.escape(line).replace(ELLIPSIS, "*"))
