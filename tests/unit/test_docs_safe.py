"""No step of a page can lose a task, a dead letter or data because a step before it failed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.pages import FENCE, PAGES, ROOT, commands

FOLDERS, SUFFIXES = ("shared", "functions", "infra", ".github"), (".py", ".jinja", ".yml", ".html", ".sql")
HEADING = re.compile(r"^#{1,6} ", re.M)

COUNTED_BY = {
    r"aws sqs (purge-queue|delete-queue)\b": r"aws sqs get-queue-attributes\b",
    r"aws s3 (rm|rb)\b": r"aws s3 ls\b",
    r"aws s3api delete-": r"aws s3api list-",
    r"aws logs delete-log-group\b": r"aws logs describe-log-groups\b",
    r"aws cloudformation delete-stack\b": r"aws cloudformation describe-stacks\b",
    r"aws rds delete-": r"aws rds describe-",
    r"cdk destroy (?!\S+-api\b)": r"joblane (--stage \S+ )?queues\b",
    r"joblane (--stage \S+ )?(delete|cancel|archive)\b.* --yes\b": (
        r"joblane (--stage \S+ )?(delete|cancel|archive)\b.* --dry-run\b"
    ),
    r"joblane (--stage \S+ )?delete\b(?!.*--dry-run).* -{1,2}(state|type|older|queue|tenant)\b": (
        r"joblane (--stage \S+ )?delete\b.* --dry-run\b"
    ),
}
"""Commands that delete → the command that counts what they would delete."""
SQL_DELETES = re.compile(
    r"\b(delete from|truncate|drop (table|schema|database)|update) (?!joblane\.pauses\b)[\w.]+", re.I
)
SQL_COUNTS = re.compile(r"\bselect\b.*\bcount\(", re.I | re.S)


@cache
def sources() -> dict[Path, str]:
    """The files of the code with their texts."""
    files = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES)
    return {path: path.read_text() for path in files}


def moves_without_a_destination(text: str) -> list[str]:
    """Commands that move messages out of a queue to the queue that SQS took them from.

    The library sends dead letters itself, so that SQS knows no such queue and moves none of them.
    Source: SQS developer guide, *Troubleshooting dead-letter queue redrive*, CouldNotDetermineMessageSource.
    """
    joined = re.sub(r"\\\n\s*", " ", text)
    found = re.findall(r"start-message-move-task +--[^`]*?(?=\n *(?!--)\S|`|\Z)", joined, re.S)
    found += re.findall(r"start_message_move_task\([^)]*\)", text)
    return [command for command in found if not re.search(r"--destination-arn|DestinationArn", command)]


def deletes_uncounted(page: str) -> Iterator[str]:
    """Commands that delete without an earlier block of their section that counts.

    A block of its own, because a reader pastes a block whole: the count has to be read before the deletion starts.
    """
    for section in _sections(page):
        earlier: list[str] = []
        counted = False
        for match in FENCE.finditer(section):
            if match[2] == "sql":
                found = SQL_DELETES.search(match[4])
                if found and not counted:
                    yield found[0]
                counted |= bool(SQL_COUNTS.search(match[4]))
            lines = [" ".join(words) for words in commands(match[4])] if match[2] == "sh" else []
            for line in lines:
                for deletes, counts in COUNTED_BY.items():
                    if re.match(deletes, line) and not any(re.match(counts, one) for one in earlier):
                        yield line
            earlier += lines


def _sections(page: str) -> Iterator[str]:
    """Parts of a page between headings; a ``#`` within a block is none."""
    blocks = [match.span() for match in FENCE.finditer(page)]
    starts = [
        match.start()
        for match in HEADING.finditer(page)
        if not any(start <= match.start() < end for start, end in blocks)
    ]
    for start, end in zip([0, *starts], [*starts, len(page)], strict=True):
        yield page[start:end]


def test_messages_are_moved_to_a_queue_that_is_named() -> None:
    texts = sources() | {page: page.read_text() for page in PAGES}
    assert [path for path, text in texts.items() if moves_without_a_destination(text)] == []


def test_a_deletion_follows_a_block_that_counts() -> None:
    assert [(page, line) for page in PAGES for line in deletes_uncounted(page.read_text())] == []


def test_commands_for_a_copy_of_a_database_do_not_ask_the_exported_stage() -> None:
    pages = [text for page in PAGES if "JOBLANE_STAGE" in (text := page.read_text())]
    blocks = [match[4] for text in pages for match in FENCE.finditer(text) if "export DATABASE_URL=" in match[4]]
    assert blocks
    assert [block for block in blocks if "unset JOBLANE_STAGE\n" not in block] == []


def test_advice_of_a_program_to_delete_a_queue_counts_first() -> None:
    for path, text in sources().items():
        for match in re.finditer(r"aws sqs (purge|delete)-queue", text):
            assert "get-queue-attributes" in text[max(0, match.start() - 400) : match.start()], path


# --- The checks themselves -----------------------------------------------------------------------------------------

LOSES = """
## Drop a type
```sh account
aws sqs start-message-move-task --source-arn arn:aws:sqs:eu-central-1:111122223333:jobs-dlq
aws sqs purge-queue --queue-url https://sqs.eu-central-1.amazonaws.com/111122223333/jobs-dlq
```
"""
COUNT = "aws sqs get-queue-attributes --queue-url X --attribute-names All"


def test_a_move_without_a_destination_is_found() -> None:
    (found,) = moves_without_a_destination(LOSES)
    assert found.endswith("jobs-dlq")
    assert moves_without_a_destination("start-message-move-task --source-arn X \\\n  --destination-arn Y\naws") == []
    assert len(moves_without_a_destination("aws sqs start-message-move-task \\\n  --source-arn X\n")) == 1
    assert len(moves_without_a_destination("sqs.start_message_move_task(SourceArn=X)")) == 1
    assert moves_without_a_destination("Never use `start-message-move-task` for it.") == []


def test_a_deletion_is_found_that_nothing_counts_or_that_its_own_block_counts() -> None:
    (found,) = deletes_uncounted(LOSES)
    assert found.startswith("aws sqs purge-queue")
    assert list(deletes_uncounted(LOSES.replace("aws sqs start", f"{COUNT}\naws sqs start"))) == [found]
    assert list(deletes_uncounted(LOSES.replace("```sh", f"```sh account\n{COUNT}\n```\n```sh", 1))) == []
    assert list(deletes_uncounted(f"## A\n```sh\n{COUNT}\n```\n{LOSES}")) == [found]
    assert list(deletes_uncounted("```sql\ndelete from joblane.tasks;\n```")) == ["delete from joblane.tasks"]
    assert list(deletes_uncounted("```sql\nselect count(*) from x;\n```\n```sql\ndrop table x;\n```")) == []
    assert list(deletes_uncounted("```sh\njoblane delete --state archived --older 30d --yes\n```")) != []
