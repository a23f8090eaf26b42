"""The word list of `make check` finds each of its words, and leaves plain English alone."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pages import ROOT

PLANTS = {
    "comment.py": "# The worker is told how it ended\n",
    "function.py": 'def go() -> None:\n    """What it does."""\n',
    "attribute.py": 'GO = 1\n"""Of a queue."""\n',
    "module.py": '"""Whether it is."""\n',
    "over_a_break.py": "# Its attempts were given\n# up.\n",
    "second_line.py": '"""\nWhat it does."""\n',
    "test_async.py": f"async def test_{'a' * 76}() -> None: ...\n",
    "notes.txt": "whoever reads this\n",
    "test_long.py": f"def test_{'a' * 76}() -> None: ...\n",
    "page.md": "The messages are in the letters of the lane.\n",
    "page.html": "<p>Given up</p>\n",
    "query.sql": "-- the rows that are owed\n",
    "door.jinja": "The door opens.\n",
    "Makefile": "# While the database is away\n",
}
PLAIN = {
    "plain.py": '"""One-time passwords."""\n\n# The dead letter waits; a front door forwards; it is thrown away.\n',
    "plain.txt": "Each dead\n  letter waits at the front\n  door.\n",
    "plain.md": "8 to 64 ASCII letters, digits and hyphens. Names start with a letter.\n",
    "test_plain.py": f"def test_{'a' * 75}() -> None: ...\n",
}


def check(path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / ".ci" / "words.py"), path.name],
        cwd=path.parent,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_word_is_found_with_its_place(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(PLANTS[name])
    found = check(tmp_path / name)
    assert found.returncode == 1, found.stderr
    [line] = found.stdout.splitlines()
    assert line.startswith((f"{name}:1: ", f"{name}:2: "))


@pytest.mark.parametrize("name", PLAIN)
def test_plain_words_pass(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(PLAIN[name])
    found = check(tmp_path / name)
    assert (found.returncode, found.stdout) == (0, "")


@pytest.mark.parametrize(
    ("ceiling", "found"),
    [
        (1, ["2 places, 1 at most; say again\n  docs/page.md:2\n  shared/joblane/a.py:1"]),
        (2, []),
        (3, ["2 places; lower the ceiling to 2"]),
    ],
)
def test_a_phrase_of_the_library_may_only_become_rarer(
    ceiling: int, found: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("words", ROOT / ".ci" / "words.py")
    assert spec is not None
    assert spec.loader is not None
    words = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(words)
    monkeypatch.setattr(words, "CEILINGS", {"made anew": (ceiling, "again")})
    monkeypatch.chdir(tmp_path)
    texts = {
        "docs/page.md": "Plain.\nMade\n  anew.\n",
        "shared/joblane/a.py": "# made anew",
        "tests/b.py": "# made anew",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(words.frequent(list(texts))) == [f".ci/words.py: 'made anew' has {line}" for line in found]
