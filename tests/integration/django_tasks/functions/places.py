"""The place of two queues."""

from __future__ import annotations

from joblane import Lambda

OFFICE = Lambda("office", batch_size=5)
