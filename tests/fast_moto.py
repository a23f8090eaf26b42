"""Makes moto's queues and the clients of boto3 fast, of which a test creates several.

To send a message, moto counts all messages of the queue, and reads the clock for each. For each request it searches its
hundreds of services, and the methods of the service. A client of boto3 copies a tree of its session's handlers, and
translates the names of all events again.
"""

from __future__ import annotations

import copy
import time
from functools import cache
from typing import Any

from botocore import hooks
from moto import backend_index
from moto.core import responses, utils
from moto.sqs import models
from moto.sqs.models import Message, Queue

TREE: Any = vars(hooks)["_PrefixTrie"]


def accelerate() -> None:
    """Replace the clock, the counts of messages, the searches for names and the copies by equal ones."""
    convert = cache(utils.camelcase_to_underscores)
    replacements: list[tuple[Any, str, Any]] = [
        (models, "unix_time", time.time),
        (models, "unix_time_millis", _now),
        (models, "camelcase_to_underscores", convert),
        (responses, "camelcase_to_underscores", convert),
        (responses, "method_names_from_class", cache(utils.method_names_from_class)),
        (backend_index, "backend_url_patterns", sorted(backend_index.backend_url_patterns, key=_is_of_another_service)),
        (hooks.EventAliaser, "__copy__", _copy_of_hooks),
        (TREE, "__copy__", _copy_of_tree),
        (Queue, "messages", property(_messages)),
        (Queue, "approximate_number_of_messages_delayed", property(_delayed)),
        (Queue, "approximate_number_of_messages_not_visible", property(_not_visible)),
    ]
    for owner, name, replacement in replacements:
        setattr(owner, name, replacement)


def _now() -> float:
    return time.time() * 1000


def _messages(queue: Queue) -> list[Message]:
    now = _now()
    return [message for message in queue._messages if message.visible_at < now and message.delayed_until <= now]


def _delayed(queue: Queue) -> int:
    now = _now()
    return sum(now < message.delayed_until for message in queue._messages)


def _not_visible(queue: Queue) -> int:
    now = _now()
    return sum(now <= message.visible_at for message in queue._messages)


def _is_of_another_service(pattern: tuple[str, Any]) -> bool:
    return pattern[0] != "sqs"


def _copy_of_hooks(hooks_of_session: Any) -> Any:
    copied: Any = hooks.EventAliaser(copy.copy(hooks_of_session._emitter), hooks_of_session._event_aliases)
    copied._alias_name_cache = hooks_of_session._alias_name_cache  # each name always has the same translation
    return copied


def _copy_of_tree(tree: Any) -> Any:
    copied = TREE()
    copied.__dict__ = _copy_of_node(tree.__dict__)
    return copied


def _copy_of_node(node: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _copy_of_node(value)
        if value.__class__ is dict
        else hooks.NodeList([*value.first], [*value.middle], [*value.last])
        if value.__class__ is hooks.NodeList
        else value
        for key, value in node.items()
    }
