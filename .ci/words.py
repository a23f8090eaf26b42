"""Find words that a reader has to translate, docstrings that open badly, and test names that are too long.

``python .ci/words.py [FILE]...`` reads the named files, or all that git tracks, and prints what to write instead.
Without arguments it also counts phrases in the library and its documentation, each of which may only become rarer.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

SUFFIXES = {".py", ".md", ".html", ".jinja", ".sql", ".js", ".css", ".yml", ".toml", ".mako", ".txt", ""}
LEFT_OUT = re.compile(
    r"\.ci/words\.py|tests/unit/test_words\.py|package(-lock)?\.json|.*/locks/.*|requirements/.*|LICENSE"
)
LONGEST_TEST_NAME = 80

WORDS = {
    r"told": "says, logs, reports, records",
    r"tells? of": "says, logs, reports",
    r"what (?:becomes|became|is said|was said) of": "the result, the state",
    r"goes on": "continues",
    r"who(?:ever|mever|m)": "the user, the caller, anyone who",
    r"_?beside": "next to, in addition to, together with",
    r"owed": "pending, due",
    r"(?:is|are|was|were|be|been|being|database|SQS|service|provider) away|is_away": "unavailable",
    r"given up|giv(?:es?|ing) up (?:(?:the|a|its) )?(?:messages?|tasks?)": "archived, for a task; dead letter",
    r"dead tasks?|(?:un)?bur(?:y|ied|ies)": "archived, for a task; dead letter",
    r"(?:one|those) that (?:is|are|was|were)": "the noun, with an adjective",
    r"(?<!front[\s_-])_?doors?": "front door, or the Inspector",
    r"foreign (?:senders?|messages?|producers?)": "external producer, external message",
    r"in company|suspects?": "claimed in a batch, claim_alone",
    r"admitted": "inserted",
    r"onward": "forward",
    r"as_it_came": "unchanged",
    r"words_of": "log_fields",
    r"settled": "the response",
    r"mend(?:s|ed|ing)?": "fix",
    r"the record": "the task table, the database",
    r"(?<!dead[\s_-])_?letters?(?!-spacing)": "dead letter",
}
"""Regular expression of whole words, in any case → the words to use."""
CEILINGS = {
    r"(?:that|those) of|those with": (124, "the noun again"),
    r"a text|texts": (122, "a string, a message, a label"),
    r"(?:is|are|was|were|be|been) made|made (?:anew|at run time)": (67, "created, recreated, dynamic"),
    r"also (?:if|in|for|without)": (14, "even if, including"),
    r"by (?:SQL|IAM|the API|Amazon SES)": (41, "with, through, using"),
    r"nobody|somebody": (37, "no process, an operator, a user"),
    r"begun|begins to": (45, "started, starts to"),
    r"the most \w+(?: \w+)? that": (7, "the maximum number of"),
    r"(?:is|are|was) over": (20, "has expired, has ended"),
    r"for ever": (3, "forever"),
    r"in (?:the )?place of": (22, "instead of"),
    r"the least": (6, "the smallest"),
    r"as of": (4, "as for"),
    r"anew": (22, "again"),
    r"the one here": (0, "this one"),
    r"lets? (?:\w+ )?(?:go|wait)": (5, "releases, makes it wait"),
    r"the look|looks? which": (0, "the check, checks which"),
    r"no end": (7, "does not end"),
}
"""Regular expression of a phrase → the places that it has, and the words to use. A lower number is written here."""
COUNTED = ("shared/joblane/", "docs/")
"""The folders whose phrases are counted."""


def _pattern(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![A-Za-z])(?:{words})(?![A-Za-z])".replace(" ", r"\s"), re.I)


PATTERNS = [(_pattern(words), say) for words, say in WORDS.items()]
ANY = _pattern("|".join(WORDS))
"""Found in few files: a search for each word takes four times as long."""
BREAK = re.compile(r"\n[ \t]*(?:(?:#|--|//|\*|>) *)?")
"""A line's end and the next line's indent and comment mark: a phrase may go over both."""
ALPHABET = re.compile(
    r"(ascii|lower-case|upper-case|small|capital|with a|\d+)[ _]letters?|letters(,| and| or) (digits|figures)", re.I
)
"""Letters of the alphabet."""
OPENINGS = ("What ", "One ", "Of ", "Whether ")
LIKELY = re.compile(rf"""["'](?:\\\n)?\s*(?:{"|".join(OPENINGS)})|def \w{{{LONGEST_TEST_NAME + 1}}}""")
"""Each Python file with a finding has a place like this. The others are not parsed, which takes the most time."""


def findings(path: Path) -> Iterator[tuple[int, str]]:
    """Line and text of each finding in one file."""
    text = path.read_text()
    prose = BREAK.sub("\n", text)
    if ANY.search(prose):
        prose = ALPHABET.sub("", prose)
        for pattern, say in PATTERNS:
            for found in pattern.finditer(prose):
                yield prose.count("\n", 0, found.start()) + 1, f"{found[0]!r}; say {say}"
    if path.suffix == ".py" and LIKELY.search(text):
        yield from _of_python(ast.parse(text), is_test=path.name.startswith("test_"))


def frequent(names: list[str]) -> Iterator[str]:
    """Say which phrases have more, or fewer, places in the files than :data:`CEILINGS` has; more with all places."""
    texts = {name: BREAK.sub("\n", Path(name).read_text()) for name in names if name.startswith(COUNTED)}
    for phrase, (ceiling, say) in CEILINGS.items():
        pattern = _pattern(phrase)
        places = [
            f"{name}:{text.count(chr(10), 0, found.start()) + 1}"
            for name, text in texts.items()
            for found in pattern.finditer(text)
        ]
        if len(places) > ceiling:
            where = "\n  ".join(places)
            yield f".ci/words.py: {phrase!r} has {len(places)} places, {ceiling} at most; say {say}\n  {where}"
        elif len(places) < ceiling:
            yield f".ci/words.py: {phrase!r} has {len(places)} places; lower the ceiling to {len(places)}"


def _of_python(tree: ast.Module, *, is_test: bool) -> Iterator[tuple[int, str]]:
    for statement in _statements(tree):
        match statement:
            case ast.Expr(value=ast.Constant(value=str(text))) if text.lstrip().startswith(OPENINGS):
                yield statement.lineno, f"a docstring opens with {text.split()[0]!r}; say what it does or holds"
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) if (
                is_test and len(name) > LONGEST_TEST_NAME
            ):
                yield statement.lineno, f"the name has {len(name)} characters; {LONGEST_TEST_NAME} are the most"


def _statements(parent: ast.AST) -> Iterator[ast.AST]:
    """Walk statements only: expressions, most of a tree, contain neither docstrings nor functions with a name."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        children = getattr(parent, name, ())
        for child in children if isinstance(children, list) else ():
            yield child
            yield from _statements(child)


def main(names: list[str]) -> int:
    is_all = not names
    if is_all:
        names = subprocess.run(["git", "ls-files"], check=True, capture_output=True, text=True).stdout.splitlines()  # noqa: S607
    names = [
        name
        for name in names
        if (path := Path(name)).suffix in SUFFIXES and path.is_file() and not LEFT_OUT.fullmatch(name)
    ]
    problems = [f"{name}:{line}: {text}" for name in names for line, text in findings(Path(name))]
    if is_all:
        problems += frequent(names)
    for problem in problems:
        print(problem)  # noqa: T201
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
