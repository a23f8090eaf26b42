"""Schedules in words."""

from __future__ import annotations

import random

import pytest

from joblane.errors import DeclarationError
from joblane.inspector.sentences.schedules import in_words
from joblane.tasks.schedule import Schedule, every

WORDS = {
    "30 6 * * 1-5": "weekdays at 06:30 UTC",
    "0 8 * * 0": "Sundays at 08:00 UTC",
    "0 8 * * 7,6": "weekends at 08:00 UTC",
    "0 8 * * MON,THU": "Mondays and Thursdays at 08:00 UTC",
    "@daily": "every day at 00:00 UTC",
    "@monthly": "on the 1st of the month at 00:00 UTC",
    "@yearly": "on the 1st of January at 00:00 UTC",
    "0 6,18 * * *": "every day at 06:00 and 18:00 UTC",
    "* * * * *": "every minute",
    "*/15 * * * *": "every 15 minutes",
    "@hourly": "every hour",
    "20 * * * *": "every hour at :20",
    "5,35 * * * *": "every hour at :05 and :35",
    "0 */6 * * *": "every 6 hours UTC",
    "10 */6 * * *": "every 6 hours at :10 UTC",
    "*/15 9-17 * * MON-FRI": "every 15 minutes from 09:00 to 17:45 on weekdays UTC",
    "30 9-17 * * *": "every hour from 09:30 to 17:30 UTC",
    "0 3 1,15 * *": "on the 1st and 15th of the month at 03:00 UTC",
    "0 3 1-7 * *": "on the 1st to 7th of the month at 03:00 UTC",
    "0 3 13 2,8 *": "on the 13th of February and August at 03:00 UTC",
    "0 3 * 7 MON": "Mondays in July at 03:00 UTC",
    "0 3 * 7 *": "every day in July at 03:00 UTC",
    "0 3 22 * FRI": "on the 22nd of the month, and Fridays, at 03:00 UTC",
    "0 3 1-31 * MON": "every day at 03:00 UTC",  # either day field may match
    "0 3 1 * 0-6": "every day at 03:00 UTC",
    "0 3 */1 * MON": "Mondays at 03:00 UTC",  # both have to match
    "7 1-20/3 * * *": "cron 7 1-20/3 * * * UTC",
    "0 3 1-31/2 * *": "cron 0 3 1-31/2 * * UTC",
}


@pytest.mark.parametrize("text", WORDS)
def test_a_schedule_is_said_in_words(text: str) -> None:
    schedule = Schedule(text)
    assert in_words(schedule.text, schedule.timezone) == WORDS[text]


def test_a_zone_is_named_where_the_time_depends_on_it() -> None:
    assert in_words("30 6 * * MON-FRI", "Europe/Berlin") == "weekdays at 06:30 Europe/Berlin"
    assert in_words(every(minutes=15).text, "Europe/Berlin") == "every 15 minutes Europe/Berlin"


def test_schedules_with_the_same_words_fire_at_the_same_times() -> None:
    # given many schedules
    chosen = random.Random(7)
    parts = (
        ("*", "0", "5", "5,35", "*/15", "*/20", "1-3", "0,30,45"),
        ("*", "6", "6,18", "*/6", "*/12", "9-17", "9-11", "0-23/5", "22-23"),
        ("*", "1", "1,15", "1-7", "1-31/2", "1-31", "2,4,6,8,10"),
        ("*", "7", "1,7", "3-10", "*/2"),
        ("*", "0", "7", "1-5", "0,6", "MON,THU", "*/2", "0-6"),
    )
    found: dict[str, tuple[str, ...]] = {}
    for _ in range(3_000):
        text = " ".join(chosen.choice(part) for part in parts)
        try:
            schedule = Schedule(text)
        except DeclarationError:
            continue
        # when
        words = in_words(schedule.text, "UTC")
        # then
        assert found.setdefault(words, schedule.expressions) == schedule.expressions, words
    assert len(found) > 300
