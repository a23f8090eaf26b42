"""``docs/tutorial.md``, followed: its files are written, its commands are run, and its outputs are compared."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
                    assert _pattern(_sorted_steps(text)).fullmatch(_sorted_steps(output)), (
                        f"{heading}:\n{text}\nis in the page; printed was\n{output}"
                    )
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


def _pattern(text: str) -> re.Pattern[str]:
    """An output of the page: ``…`` stands for any text; ids, fingerprints and the width of columns may differ."""
    pattern = ""
    for line in text.splitlines():
        if line.strip() == ELLIPSIS:
            pattern += r"(?:[^\n]*\n)*?"
            continue
        words = [re.escape(word).replace(re.escape(ELLIPSIS), r"[^\n]*?") for word in line.split()]
        pattern += r"[^\S\n]*" + r"[^\S\n]+".join(words) + r"[^\S\n]*\n"
    pattern = re.sub(r"[0-9a-f]{8}(\\-[0-9a-f]{4,12}){4}", lambda _: ID.pattern, pattern)
    pattern = FINGERPRINT.sub(lambda _: FINGERPRINT.pattern, pattern)
    return re.compile(pattern.replace(r"\ …", r"\s*…"))
