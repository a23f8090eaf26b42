"""The facts of AWS that decisions rest on are still those of its API models, its schemas and the CDK."""

from __future__ import annotations

import pytest

from tests import aws_facts
from tests.aws_facts import FACTS, PAGE, Fact


@pytest.mark.parametrize("fact", FACTS, ids=lambda fact: fact.what)
def test_a_fact_of_aws_is_as_it_was_when_the_decision_was_made(fact: Fact) -> None:
    assert fact.read() == fact.value, f"AWS has changed this. {fact.so}. Decide again: tests/aws_facts.py says how"


@pytest.mark.parametrize("fact", [fact for fact in FACTS if fact.ours is not None], ids=lambda fact: fact.what)
def test_a_limit_of_the_library_is_that_of_aws(fact: Fact) -> None:
    assert fact.ours == fact.value


def test_a_fact_that_aws_words_otherwise_is_noticed() -> None:
    assert aws_facts.number("the maximum is 900 seconds", aws_facts.MOST) is None
    assert aws_facts.number("the maximum allowed value is 1,800 seconds.", aws_facts.MOST) == 1800
    assert aws_facts.schema("AWS::SQS::Queue", "properties", "Nothing") is None


def test_the_page_shows_the_facts() -> None:
    text = PAGE.read_text()
    assert text == aws_facts.rendered(text), "run `python -m tests.aws_facts` to write them again"
